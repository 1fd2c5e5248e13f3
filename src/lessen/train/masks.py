"""Which weights survive over several layers at once: one threshold for all, or a budget for each."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..models.layer import Layer
from ..prune.budgets import erk
from ..prune.mask import strongest


def globally(scores: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """Masks that keep the highest scores of all layers together; the best weight of each layer always stays.

    Exactly round(sparsity * n) of the n weights go (fewer only where each layer is down to its last one).
    """
    pinned = {name: _first_kept(s) for name, s in scores.items()}
    flat = strongest(torch.cat([s.flatten() for s in pinned.values()]), sparsity)
    pieces = flat.split([s.numel() for s in pinned.values()])
    return {name: piece.reshape(pinned[name].shape) | pinned[name].isinf()
            for name, piece in zip(pinned, pieces, strict=True)}  # fmt: skip


def _first_kept(scores: Tensor) -> Tensor:
    flat = scores.detach().flatten().clone()
    flat[flat.argmax()] = math.inf
    return flat.reshape(scores.shape)


def largest(student: nn.Module, names: Mapping[str, object], sparsity: float) -> dict[str, Tensor]:
    """Masks of the largest weights of all layers together; what is zero already goes first."""
    return globally({n: student.get_parameter(n).detach().abs() for n in names}, sparsity)


def within(scores: Mapping[str, Tensor], kept: Mapping[str, int]) -> dict[str, Tensor]:
    """Masks that keep the `kept[name]` highest scores of each layer."""
    return {name: strongest(s.flatten(), 1 - kept[name] / s.numel()).reshape(s.shape) for name, s in scores.items()}


def erdos_renyi(layers: Mapping[str, Layer], sparsity: float) -> dict[str, int]:
    """How many weights each layer keeps (`erk`); the counts add up to exactly n - round(sparsity * n)."""
    sizes = {name: layer.weight.numel() for name, layer in layers.items()}
    kept = erk({name: tuple(layer.weight.shape) for name, layer in layers.items()}, sparsity)
    return _exactly(kept, sizes, sum(sizes.values()) - round(sparsity * sum(sizes.values())))


def _exactly(kept: dict[str, int], sizes: Mapping[str, int], goal: int) -> dict[str, int]:
    """What rounding left over goes to the largest layers that have room."""
    for name in sorted(sizes, key=lambda n: -sizes[n]):
        kept[name] += max(1 - kept[name], min(sizes[name] - kept[name], goal - sum(kept.values())))
    return kept
