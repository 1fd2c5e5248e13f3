"""`KMeans`: every weight is one of a few shared values, which are fitted to the weights and to what they do."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..codings import Codebook
from ..errors import LessenError
from ..models.layer import Layer
from ..statistics.problem import Problem, fed_back, problem
from ..statistics.second_order import Rounding, descend, join
from ..statistics.statistics import Statistics
from .lloyd import kmeans

_FEW = 16  # clusters: with so few, a sweep of coordinate descent still gains enough for its time


@dataclass(frozen=True)
class KMeans:
    """Weight sharing by one-dimensional k-means (Han et al. 2016, https://arxiv.org/abs/1510.00149).

    Values are weighted by the second moment of their input and the importance of their output (Choi et al. 2017);
    assignments are then made with error feedback and the centroids moved to the least squares of the layer's error.

    Args:
        clusters: 2 to 256 shared values.
        per: one table for the whole "tensor" or for each output "channel".
        feedback: False takes the nearest centroid.

    >>> KMeans(clusters=16).encode(layer, statistics)  # doctest: +SKIP
    """

    clusters: int = 16
    per: str = "tensor"
    feedback: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.clusters, int) or isinstance(self.clusters, bool) or not 2 <= self.clusters <= 256:
            raise LessenError(f"clusters={self.clusters!r}", where="KMeans", mend="give 2 to 256 clusters")
        if self.per not in ("tensor", "channel"):
            raise LessenError(f"per={self.per!r}", where="KMeans", mend='give "tensor" or "channel"')

    def encode(self, layer: Layer, statistics: Statistics) -> Codebook:
        """The layer's weight as a codebook; with a mask, one of the shared values is exactly zero."""
        p = problem(layer, statistics)
        table = _Table(self._centroids(p), p)
        Q = table.nearest(p.W)
        if self.feedback and p.H is not None:
            back = fed_back(p, table.rounding)
            Q = back if back is not None and p.harm(back) <= p.harm(Q) else Q
            Q = table.refit(p, Q)
            if self.clusters <= _FEW:
                descend(Q, p.H @ (p.W - Q), p.H, table.rounding(torch.arange(p.W.shape[1])))
                Q = table.refit(p, Q)
        return table.coding(Q)

    def _centroids(self, p: Problem) -> Tensor:
        """[1 or rows, K] ascending."""
        matrix, weights = p.matrix, p.column_weights().expand(p.matrix.shape)
        if self.per == "tensor":
            matrix, weights = matrix.reshape(1, -1), (weights * p.G[:, None]).reshape(1, -1)
        if p.keep is None:
            return kmeans(matrix, weights, self.clusters)
        live = join(p.keep).reshape(matrix.shape)
        found = kmeans(matrix, weights * live, self.clusters - 1)
        return torch.cat([found, found.new_zeros(len(found), 1)], 1).sort(dim=1).values

    @classmethod
    def offers(cls) -> tuple[KMeans, ...]:
        """Tables of 4 to 256 values."""
        return tuple(cls(k) for k in (256, 64, 32, 16, 8, 4))


class _Table:
    """Centroids under work, with the assignments found last."""

    def __init__(self, centroids: Tensor, p: Problem) -> None:
        self.centroids, self.keep = centroids, p.keep
        self.groups = p.groups

    def _nearest(self, x: Tensor) -> Tensor:
        """Index of the nearest centroid for x [rows or 1, n]."""
        middles = ((self.centroids[:, 1:] + self.centroids[:, :-1]) / 2).contiguous()
        if len(middles) == 1:
            return torch.bucketize(x.contiguous(), middles[0])
        return torch.searchsorted(middles, x.contiguous())

    def _round(self, x: Tensor) -> Tensor:
        """x [rows, n] to the nearest centroids."""
        return self.centroids.expand(len(x), -1).gather(1, self._nearest(x))

    def nearest(self, W: Tensor) -> Tensor:
        groups, columns, rows = W.shape
        Q = self._round(join(W)).reshape(groups, rows, columns).transpose(1, 2).contiguous()
        return Q if self.keep is None else Q * self.keep

    def rounding(self, order: Tensor) -> Rounding:
        keep = None if self.keep is None else self.keep[:, order]

        def round_to(x: Tensor, j: int) -> Tensor:
            if len(self.centroids) == 1:
                q = self.centroids[0][self._nearest(x)]
            else:
                q = self._round(x.reshape(-1, 1)).reshape(x.shape)
            return q if keep is None else q * keep[:, j]

        return round_to

    def refit(self, p: Problem, Q: Tensor) -> Tensor:
        """Centroids to the least squares of the layer's error given the assignments: one step along the gradient."""
        assert p.H is not None
        index = self._nearest(join(Q))
        F = p.H @ (p.W - Q)
        weight = (p.G_split * p.diagonal[:, :, None]).expand(p.W.shape)
        pull = self._totals(index, join(F * p.G_split)) / self._totals(index, join(weight)).clamp_min(1e-30)
        pull = torch.where(self.centroids == 0, torch.zeros_like(pull), pull) if self.keep is not None else pull
        move = pull.float().expand(len(index), -1).gather(1, index)
        D = move.reshape(self.groups, -1, index.shape[1]).transpose(1, 2)
        D = D if self.keep is None else D * self.keep
        step = self._per_table(D * F * p.G_split) / self._per_table(D * (p.H @ D) * p.G_split).clamp_min(1e-30)
        moved = self.centroids + step.clamp(0, 4)[:, None] * pull.float()
        self.centroids, rank = moved.sort(dim=1)
        index = rank.argsort(dim=1).expand(len(index), -1).gather(1, index)
        values = self.centroids.expand(len(index), -1).gather(1, index)
        Q = values.reshape(self.groups, -1, index.shape[1]).transpose(1, 2).contiguous()
        return Q if self.keep is None else Q * self.keep

    def _totals(self, index: Tensor, x: Tensor) -> Tensor:
        """Sum of x [rows, columns] over each cluster, [1 or rows, K]."""
        k = self.centroids.shape[1]
        if len(self.centroids) == 1:
            return torch.zeros(k, dtype=torch.float64).index_add_(0, index.flatten(), x.flatten().double())[None]
        return torch.zeros(len(x), k, dtype=torch.float64).scatter_add_(1, index, x.double())

    def _per_table(self, x: Tensor) -> Tensor:
        """Sum of x [groups, columns, rows / groups] over what shares a table, [1 or rows]."""
        rows = x.sum(1).reshape(-1)
        return rows.sum()[None] if len(self.centroids) == 1 else rows

    def coding(self, Q: Tensor) -> Codebook:
        index = self._nearest(join(Q))
        if self.keep is not None:
            zero = (self.centroids == 0).long().argmax(1, keepdim=True)
            index = torch.where(join(self.keep) > 0, index, zero)
        return Codebook(index.to(torch.uint8), self.centroids.float().contiguous())
