"""How much a unit of a group matters, by what its weights, their gradients or its activations say.

All kernels give one number a unit, float64 [size]; larger means more important.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

Owned = Mapping[str, Sequence[tuple[Tensor, int, Tensor]]]  # group -> (parameter, dim, indices [size, per unit])


def magnitude(owned: Owned) -> dict[str, Tensor]:
    """Sum of squares of a unit's weights. (Li et al. 2017)"""
    return {name: _per_unit(members, lambda p: p * p) for name, members in owned.items()}


def taylor(owned: Owned) -> dict[str, Tensor]:
    """(sum over a unit's weights of w * grad)^2 for one batch whose gradients are in `.grad`.

    Source: Molchanov et al. 2019, eq. 8: the unit as a whole is a gate.
    """
    return {name: _per_unit(members, _first_order).square() for name, members in owned.items()}


def fisher(owned: Owned) -> dict[str, Tensor]:
    """Sum over a unit's weights of (w * grad)^2: diagonal Fisher information times w^2 (LeCun et al. 1990; Theis et
    al. 2018, eq. 8), for one batch whose gradients are in `.grad`."""
    return {name: _per_unit(members, lambda p: _first_order(p).square()) for name, members in owned.items()}


def batchnorm_scale(owned: Owned) -> dict[str, Tensor]:
    """Sum of the absolute scales of the batch norms that a unit passes. (network slimming, Liu et al. 2017)"""
    return {name: _per_unit(members, torch.abs) for name, members in owned.items()}


def geometric_median(owned: Owned) -> dict[str, Tensor]:
    """Sum of the distances of a unit's weights to those of the other units: the one nearest to the geometric median of
    all can be made up for by the others. (FPGM, He et al. 2019, eq. 4)"""
    return {name: _distances(_rows(members)) for name, members in owned.items()}


def wanda(owned: Owned, norms: Mapping[int, Tensor]) -> dict[str, Tensor]:
    """Sum over a unit's weights of |w| ||x||, x the input that the weight multiplies. (Sun et al. 2024, eq. 1, summed)

    Args:
        norms: id of the parameter -> ||x|| in the parameter's shape (or one that broadcasts to it).
    """
    scored = {n: [m for m in members if id(m[0]) in norms] for n, members in owned.items()}
    return {n: _per_unit(ms, lambda p: p.abs() * norms[id(p)]) for n, ms in scored.items() if ms}


def _first_order(p: Tensor) -> Tensor:
    return p * p.grad if p.grad is not None else torch.zeros_like(p)


def _per_unit(members: Sequence[tuple[Tensor, int, Tensor]], score: Callable[[Tensor], Tensor]) -> Tensor:
    total: Tensor | None = None
    for parameter, dim, indices in members:
        with torch.no_grad():
            values = score(parameter).double().movedim(dim, 0)
        values = values.flatten(1).sum(1) if values.ndim > 1 else values
        part = values[indices.flatten()].reshape(indices.shape[0], -1).sum(1)
        total = part if total is None else total + part
    assert total is not None
    return total


def _rows(members: Sequence[tuple[Tensor, int, Tensor]]) -> Tensor:
    """Each unit's weights as one vector: [size, weights of a unit]."""
    parts = [p.detach().double().movedim(dim, 0)[index.flatten()].reshape(len(index), -1) for p, dim, index in members]
    return torch.cat(parts, 1)


def _distances(rows: Tensor) -> Tensor:
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").sum(1)
