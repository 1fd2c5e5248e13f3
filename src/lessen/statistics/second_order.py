"""Rounding and pruning that repair their own error: the kernels under GPTQ-, OBS- and codebook techniques.

All minimise sum_r e_r H e_rT with e = W - Q for one layer, H the second moment of its input. Matrices are held
transposed and in batches, [groups, columns, rows], so that a step over columns reads memory in order.

With H = R RT, R upper triangular (one Cholesky factorisation of H read backwards; no inverse is needed), the error
is sum_j (e R)_j^2 and each term depends on columns up to j only. So column j is best rounded at
w_j + sum_{i<j} e_i R_ij / R_jj: the update of GPTQ (Frantar et al. 2022) in the form of LDLQ (Chee et al. 2023).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Rounding = Callable[[Tensor, int], Tensor]  # values [groups, rows] of column number j -> the nearest ones allowed

_BLOCK = 64
_MORE_DAMP = (0.01, 0.1, 1.0)  # tried in turn where a factorisation fails


@dataclass(frozen=True, eq=False)
class Factor:
    """The Cholesky factor R of H as the kernels read it.

    Args:
        feedback: R_ij / R_jj at [j, i], so that row j holds what column j takes up; [groups, columns, columns].
        pivots: R_jj^2, [groups, columns].
    """

    feedback: Tensor
    pivots: Tensor


def factorize(H: Tensor, damp: float = 0.0) -> Factor | None:
    """The factor of H [g, c, c] plus `damp` of its mean diagonal, or as much more as it takes; None if none helps."""
    diagonal = H.diagonal(dim1=-2, dim2=-1)
    mean = diagonal.mean(-1, keepdim=True)
    if not bool(torch.isfinite(mean).all()) or not bool((mean > 0).any()):
        return None
    dead = diagonal <= 0  # an input that is always zero: its weights count for nothing, but mustn't stop the rest
    mean = torch.where(mean > 0, mean, torch.ones_like(mean))
    for amount in (damp, *_MORE_DAMP):
        backwards = H.flip(-1, -2).clone()
        backwards.diagonal(dim1=-2, dim2=-1).add_((amount * mean + dead * mean).flip(-1))
        L, failed = torch.linalg.cholesky_ex(backwards)
        if not bool(failed.any()):
            R = L.flip(-1, -2)
            d = R.diagonal(dim1=-2, dim2=-1)
            return Factor((R / d[:, None, :]).transpose(-1, -2).contiguous(), d.square())
    return None


def feed_back(W: Tensor, factor: Factor, round_to: Rounding) -> Tensor:
    """Q [g, c, r]: columns rounded one after the other, each taking up what the earlier ones left over."""
    A, columns = factor.feedback, W.shape[1]
    Q, E = torch.empty_like(W), torch.empty_like(W)
    for start in range(0, columns, _BLOCK):
        end = min(start + _BLOCK, columns)
        target = W[:, start:end]
        if start:
            target = target + A[:, start:end, :start] @ E[:, :start]
        for j in range(start, end):
            x = target[:, j - start]
            if j > start:
                x = x + (A[:, j : j + 1, start:j] @ E[:, start:j])[:, 0]
            Q[:, j] = round_to(x, j)
            torch.sub(W[:, j], Q[:, j], out=E[:, j])
    return Q


def descend(Q: Tensor, F: Tensor, H: Tensor, round_to: Rounding) -> None:
    """One sweep of coordinate descent over the columns, in place: `Q` and `F` = H (W - Q), both [g, c, r].

    Each value moves to the allowed one nearest to its optimum given all others, so the error never grows
    (Nair & Suggala 2024; Behdin et al. 2023, sec. 3).
    """
    inverse = 1 / H.diagonal(dim1=-2, dim2=-1).clamp_min(torch.finfo(H.dtype).tiny)
    moved = torch.empty_like(Q)
    for start in range(0, Q.shape[1], _BLOCK):
        end = min(start + _BLOCK, Q.shape[1])
        pull = F[:, start:end]
        if start:
            pull = pull - H[:, start:end, :start] @ moved[:, :start]
        for j in range(start, end):
            f = pull[:, j - start]
            if j > start:
                f = f - (H[:, j : j + 1, start:j] @ moved[:, start:j])[:, 0]
            q = round_to(Q[:, j] + f * inverse[:, j, None], j)
            torch.sub(q, Q[:, j], out=moved[:, j])
            Q[:, j] = q
    F -= H @ moved


def polish(W: Tensor, keep: Tensor, Q: Tensor, H: Tensor, steps: int) -> Tensor:
    """Q [g, c, r] with its values at `keep` (1 or 0) moved towards their joint optimum: conjugate gradients.

    Minimises (W - Q) H (W - Q)T over all Q with the same zeros, every row for itself, preconditioned by diag(H).
    """
    diagonal = H.diagonal(dim1=-2, dim2=-1).clamp_min(1e-12)[:, :, None]
    residual = (H @ (W - Q)) * keep
    z = residual / diagonal
    direction, rz = z, (residual * z).sum(1, keepdim=True)
    for _ in range(steps):
        Hd = H @ direction
        alpha = rz / (direction * Hd).sum(1, keepdim=True).clamp_min(1e-30)
        Q = Q + alpha * direction
        residual = residual - alpha * Hd * keep
        z = residual / diagonal
        rz, before = (residual * z).sum(1, keepdim=True), rz
        direction = z + rz / before.clamp_min(1e-30) * direction
    return Q


def error(W: Tensor, Q: Tensor, H: Tensor) -> Tensor:
    """sum_j (e H eT) of each row, [g, r]."""
    E = W - Q
    return (E * (H @ E)).sum(1).clamp_min(0)


def split(matrix: Tensor, groups: int) -> Tensor:
    """A layer's matrix [rows, columns] as [groups, columns, rows / groups]."""
    return matrix.reshape(groups, -1, matrix.shape[1]).transpose(1, 2).contiguous()


def join(parts: Tensor) -> Tensor:
    """The inverse of `split`."""
    return parts.transpose(1, 2).reshape(-1, parts.shape[1])
