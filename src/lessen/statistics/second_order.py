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

_BLOCK = 64  # columns rounded between two products with all the later ones
_PANEL = 384  # columns of a Cholesky panel; measured: 2.7 times as fast as LAPACK's own blocks at 3072 columns
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


def factorize(H: Tensor, damp: float = 0.0, order: Tensor | None = None) -> Factor | None:
    """The factor of H [g, c, c] plus `damp` of its mean diagonal, or as much more as it takes; None if none helps.

    Args:
        order: of the columns; as they are if None.
    """
    diagonal = H.diagonal(dim1=-2, dim2=-1)
    mean = diagonal.mean(-1, keepdim=True)
    if not bool(torch.isfinite(mean).all()) or not bool((mean > 0).any()):
        return None
    dead = diagonal <= 0  # an input that is always zero: its weights count for nothing, but mustn't stop the rest
    mean = torch.where(mean > 0, mean, torch.ones_like(mean))
    for amount in (damp, *_MORE_DAMP):
        added = amount * mean + dead * mean
        A = H.clone() if order is None else H[:, order[:, None], order]
        A.diagonal(dim1=-2, dim2=-1).add_(added if order is None else added[:, order])
        if _factorize(A):
            d = A.diagonal(dim1=-2, dim2=-1).clone()
            return Factor(A.div_(d[:, :, None]), d.square())
    return None


def _factorize(A: Tensor) -> bool:
    """RT of A [g, c, c] = R RT, R upper triangular, in place, from the last panel to the first; False if it fails."""
    columns = A.shape[-1]
    for end in range(columns, 0, -_PANEL):
        start = max(end - _PANEL, 0)
        L, failed = torch.linalg.cholesky_ex(A[:, start:end, start:end].flip(-1, -2))
        if bool(failed.any()):
            return False
        R = L.flip(-1, -2)
        A[:, start:end, start:end], A[:, start:end, end:] = R.transpose(1, 2), 0
        if start:
            rest = torch.linalg.solve_triangular(R, A[:, start:end, :start], upper=True)
            A[:, start:end, :start] = rest
            for stop in range(start, 0, -_PANEL):  # the panels to come: all of each of them must be up to date
                n = max(stop - _PANEL, 0)
                here = slice(n, stop)
                A[:, n:start, here] = torch.baddbmm(A[:, n:start, here], rest[:, :, n:].mT, rest[:, :, here], alpha=-1)
    return True


def feed_back(W: Tensor, factor: Factor, round_to: Rounding) -> Tensor:
    """Q [g, c, r]: columns rounded one after the other, each taking up what the earlier ones left over."""
    A, columns = factor.feedback, W.shape[1]
    Q, E = torch.empty_like(W), torch.empty_like(W)
    values, rounded, left = W.unbind(1), Q.unbind(1), E.unbind(1)  # views made once: half of the time is overhead
    for start in range(0, columns, _BLOCK):
        end = min(start + _BLOCK, columns)
        target = W[:, start:end]
        if start:
            target = torch.baddbmm(target, A[:, start:end, :start], E[:, :start])
        for j, x in zip(range(start, end), target.split(1, 1), strict=True):
            if j > start:
                x = torch.baddbmm(x, A[:, j : j + 1, start:j], E[:, start:j])
            q = rounded[j].copy_(round_to(x.squeeze(1), j))
            torch.sub(values[j], q, out=left[j])
    return Q


def descend(Q: Tensor, F: Tensor, H: Tensor, round_to: Rounding) -> None:
    """One sweep of coordinate descent over the columns, in place: `Q` and `F` = H (W - Q), both [g, c, r].

    Each value moves to the allowed one nearest to its optimum given all others, so the error never grows
    (Nair & Suggala 2024; Behdin et al. 2023, sec. 3).
    """
    inverse = 1 / H.diagonal(dim1=-2, dim2=-1).clamp_min(torch.finfo(H.dtype).tiny)
    moved = torch.empty_like(Q)
    steps, values, moves = inverse.split(1, 1), Q.unbind(1), moved.unbind(1)
    for start in range(0, Q.shape[1], _BLOCK):
        end = min(start + _BLOCK, Q.shape[1])
        pull = F[:, start:end]
        if start:
            pull = torch.baddbmm(pull, H[:, start:end, :start], moved[:, :start], alpha=-1)
        for j, f in zip(range(start, end), pull.split(1, 1), strict=True):
            if j > start:
                f = torch.baddbmm(f, H[:, j : j + 1, start:j], moved[:, start:j], alpha=-1)
            q = round_to(torch.addcmul(values[j], f.squeeze(1), steps[j]), j)
            torch.sub(q, values[j], out=moves[j])
            values[j].copy_(q)
    F.baddbmm_(H, moved, alpha=-1)


def polish(W: Tensor, keep: Tensor, Q: Tensor, H: Tensor, steps: int) -> Tensor:
    """Q [g, c, r] with its values at `keep` (1 or 0) moved towards their joint optimum: conjugate gradients.

    Minimises (W - Q) H (W - Q)T over all Q with the same zeros, every row for itself, preconditioned by diag(H).
    """
    weight = keep / H.diagonal(dim1=-2, dim2=-1).clamp_min(1e-12)[:, :, None]
    residual = H @ (W - Q)
    z = residual * weight
    direction, rz = z, (residual * z).sum(1, keepdim=True)
    for step in range(steps):
        Hd = H @ direction
        alpha = rz / (direction * Hd).sum(1, keepdim=True).clamp_min(1e-30)
        Q = torch.addcmul(Q, direction, alpha)
        if step + 1 < steps:
            residual.addcmul_(Hd, alpha, value=-1)
            z = torch.mul(residual, weight, out=Hd)
            rz, before = (residual * z).sum(1, keepdim=True), rz
            direction = torch.addcmul(z, direction, rz / before.clamp_min(1e-30))
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
