"""`SVD`: a layer as two thinner ones, cut where its real inputs lose least."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..codings import Dense, LowRank
from ..errors import LessenError
from ..models.layer import Layer
from ..statistics.problem import Problem, problem
from ..statistics.statistics import Statistics


@dataclass(frozen=True)
class SVD:
    """W = L R of a low rank, minimising sum_r G_r |(W - L R) S|^2 with H = S ST, in closed form.

    The truncated singular value decomposition of D W S (D = sqrt(G)), turned back: the inputs' whitening of
    DRONE (Chen et al. 2021) and SVD-LLM (Wang et al. 2024, https://arxiv.org/abs/2403.07378), outputs weighted too.
    A convolution becomes one with fewer outputs followed by a 1 x 1.

    Args:
        rank: as a share of the break-even rank, rows * columns / (rows + columns), 0 < rank < 1.
        energy: instead of `rank`, the share of sum of squared (weighted) singular values to keep, 0 < energy < 1.
        weighted: False takes the plain decomposition of W.

    >>> SVD(rank=0.5).encode(layer, statistics)  # doctest: +SKIP
    """

    rank: float = 0.5
    energy: float | None = None
    weighted: bool = True

    def __post_init__(self) -> None:
        for name, value in (("rank", self.rank), ("energy", self.energy)):
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (value is None and name == "energy") and not (number and 0 < float(value) < 1):  # type: ignore[arg-type]
                raise LessenError(f"{name}={value!r}", where="SVD", mend=f"give 0 < {name} < 1")

    def encode(self, layer: Layer, statistics: Statistics) -> LowRank:
        """Two dense factors; `LessenError` for grouped convolutions and where no rank saves anything."""
        if layer.groups > 1:
            raise LessenError("a grouped convolution is not cut into factors", where=layer.name, mend="leave it out")
        if layer.mask is not None:
            raise LessenError("factors can't keep a mask", where=layer.name, mend="factorize first, then prune")
        p = problem(layer, statistics)
        if self.weighted:
            left, right, energies = _decompose(p.matrix, p.G, _second_moment(p))
        else:
            left, right, energies = _decompose(p.matrix, torch.ones_like(p.G), torch.eye(layer.shape[1]))
        k = self._rank(energies, layer)
        root = energies[:k].clamp_min(1e-30).pow(0.25)
        L, R = left[:, :k] * root, right[:k] / root[:, None]
        return LowRank(Dense(L.float().contiguous()), Dense(R.float().contiguous()))

    def _rank(self, energies: Tensor, layer: Layer) -> int:
        rows, columns = layer.shape
        limit = math.ceil(rows * columns / (rows + columns)) - 1  # the greatest rank that saves weights
        if self.energy is None:
            k = min(limit, round(self.rank * rows * columns / (rows + columns)))
        else:
            summed = energies.cumsum(0)
            k = int((summed < self.energy * summed[-1]).sum()) + 1
        if not 1 <= k <= limit:
            raise LessenError(
                f"rank {k} of {rows} x {columns} saves nothing (at most {limit} does)",
                where=layer.name,
                mend="ask for a lower rank, or leave the layer out",
            )
        return k

    @classmethod
    def offers(cls) -> tuple[SVD, ...]:
        """Shares of the break-even rank."""
        return tuple(cls(r) for r in (0.75, 0.5, 0.35, 0.2, 0.1))


def _second_moment(p: Problem) -> Tensor:
    return p.diagonal[0].diag() if p.H is None else p.H[0]


def _decompose(W: Tensor, G: Tensor, H: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Factors of all ranks, best first: left [r, n], right [n, c], and the energy (squared singular value) of each.

    From the eigenvectors of the smaller Gram matrix of M = D W S: U of M MT = D W H WT D gives L = U / D, R = UT D W;
    V of MT M gives L = W S V, R = VT / S.
    """
    W, H, D = W.double(), H.double(), G.double().sqrt()[:, None]
    if W.shape[0] <= W.shape[1]:
        DW = D * W
        energies, U = _eigen(DW @ H @ DW.T)
        return U / D, U.T @ DW, energies
    S = _root(H)
    DWS = D * (W @ S)
    energies, V = _eigen(DWS.T @ DWS)
    return W @ S @ V, torch.linalg.solve_triangular(S, V.T, upper=False, left=False), energies


def _eigen(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, largest first, and vectors whose largest entry is positive, so that signs are definite."""
    values, vectors = torch.linalg.eigh(gram)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    sign = vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
    return values, vectors * torch.where(sign == 0, torch.ones_like(sign), sign)


def _root(H: Tensor) -> Tensor:
    """Lower triangular S with H = S ST, dampened as little as it takes."""
    for damp in (0.0, 1e-6, 1e-3, 0.1):
        S, failed = torch.linalg.cholesky_ex(H + damp * H.diagonal().mean() * torch.eye(len(H), dtype=H.dtype))
        if not bool(failed):
            return S
    return H.diagonal().clamp_min(1e-12).sqrt().diag()
