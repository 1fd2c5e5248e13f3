"""Optimal Brain Surgeon without shortcuts: one weight at a time, each row with an inverse of its own.

For one row w of a layer, H the second moment of its input: the weight whose removal costs least is the one with the
least w_p^2 / [H^-1]_pp, the others then move by -w_p / [H^-1]_pp H^-1_:p (Hassibi & Stork 1992), and the inverse of H
without row and column p is one step of Gaussian elimination away (Frantar, Singh & Alistarh 2022, ExactOBS,
https://arxiv.org/abs/2208.11580). Cost: rows * columns^3.
"""

from __future__ import annotations

import torch
from torch import Tensor

_CACHED = 2**19  # elements of the inverses that are worked on at once: 4 MB, what a cache holds


def removals(W: Tensor, H: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """In which order each row loses its weights, and what each loss costs.

    Args:
        W: float [rows, columns].
        H: positive definite [columns, columns].
        keep: bool [rows, columns]; what is not True is gone before anything else, at no cost.

    Returns:
        column numbers int64 [rows, columns], and the costs e H eT that each adds, float64 [rows, columns].
    """
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(H.double()))
    step = max(1, _CACHED // max(H.numel(), 1))
    parts = [
        _removals(W[i : i + step].double(), inverse, None if keep is None else keep[i : i + step])
        for i in range(0, len(W), step)
    ]
    return torch.cat([order for order, _ in parts]), torch.cat([costs for _, costs in parts])


def _removals(w: Tensor, inverse: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
    rows, columns = w.shape
    w, V = w.clone(), inverse.expand(rows, columns, columns).clone()
    gone, each = torch.zeros(rows, columns, dtype=torch.bool), torch.arange(rows)
    order, costs = torch.empty(rows, columns, dtype=torch.long), torch.empty(rows, columns, dtype=torch.float64)
    free = None if keep is None else ~keep
    for n in range(columns):
        cost = w.square() / V.diagonal(dim1=1, dim2=2)
        if free is not None:
            cost = cost.masked_fill(free, -1.0)
        p = cost.masked_fill(gone, torch.inf).argmin(1)
        order[:, n], costs[:, n] = p, cost[each, p].clamp_min(0)
        row = V[each, p]
        pivot = row[each, p][:, None]
        w -= w[each, p][:, None] / pivot * row
        V.baddbmm_((row / pivot)[:, :, None], row[:, None, :], alpha=-1)
        w[each, p] = 0.0
        V[each, p] = 0.0
        V[each, :, p] = 0.0
        V[each, p, p] = 1.0
        gone[each, p] = True
    return order, costs


def best_values(W: Tensor, H: Tensor, keep: Tensor) -> Tensor:
    """The least squares for weights [rows, columns] that are zero where `keep` is False: argmin (W - Q) H (W - Q)T.

    What Optimal Brain Surgeon ends with, computed at once: W H at the survivors times the inverse of their H.
    """
    H, step = H.double(), max(1, _CACHED // max(H.numel(), 1))
    target, found = W.double() @ H, []
    for i in range(0, len(W), step):
        k = keep[i : i + step].double()
        A = H * (k[:, :, None] * k[:, None, :]) + torch.diag_embed(1 - k)
        found.append(torch.cholesky_solve((target[i : i + step] * k)[:, :, None], torch.linalg.cholesky(A))[:, :, 0])
    return torch.cat(found).to(W.dtype) * keep
