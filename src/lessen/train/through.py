"""Training through codings: the weight that the network computes with is always the decoded one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.utils.parametrize as parametrize
from torch import Tensor, nn

from ..codings import Coding, LowRank, nearest
from ..models import Layer


class _StraightThrough(nn.Module):
    """weight -> decode(nearest(weight)), with the gradient of the identity (Bengio et al. 2013)."""

    def __init__(self, layer: Layer, coding: Coding, keep_zeros: bool, scale: Tensor | None = None) -> None:
        super().__init__()
        self.layer, self.coding, self.keep_zeros = layer, coding, keep_zeros
        self.scale = torch.ones(1) if scale is None else scale

    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            held = self.layer.from_matrix(self.recode(weight).decode() / self.scale)
        return weight + (held - weight).detach()

    def recode(self, weight: Tensor) -> Coding:
        return nearest(self.coding, self.layer.to_matrix(weight.detach()).float() * self.scale, self.keep_zeros)


class _FixedFactors(nn.Module):
    """A low-rank weight is not trained here: it stays what it is."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.detach()


@contextmanager
def through_codings(
    module: nn.Module,
    layers: Mapping[str, Layer],
    codings: Mapping[str, Coding],
    keep_zeros: frozenset[str],
    scales: Mapping[str, Tensor] | None = None,
) -> Iterator[dict[str, Coding]]:
    """While the context is open, every coded weight of `module` is a parametrization by its coding.

    On leaving, the parameters hold the decoded weights and the yielded dictionary the codings of the trained ones.
    A coding of a layer in `scales` [columns] is that of the weight times its scale.
    """
    trained: dict[str, Coding] = {}
    for name, coding in codings.items():
        owner, leaf = module.get_submodule(layers[name].module), name.rpartition(".")[2]
        through = (
            _FixedFactors()
            if isinstance(coding, LowRank)
            else _StraightThrough(layers[name], coding, name in keep_zeros, (scales or {}).get(name))
        )
        parametrize.register_parametrization(owner, leaf, through, unsafe=True)
    try:
        yield trained
    finally:
        for name, coding in codings.items():
            owner, leaf = module.get_submodule(layers[name].module), name.rpartition(".")[2]
            held: Any = owner.parametrizations[leaf]  # type: ignore[index]
            trained[name] = held[0].recode(held.original) if isinstance(held[0], _StraightThrough) else coding
            parametrize.remove_parametrizations(owner, leaf, leave_parametrized=True)
            if not isinstance(coding, LowRank):
                put_decoded(owner, leaf, layers[name], trained[name], (scales or {}).get(name))


@torch.no_grad()
def put_decoded(owner: nn.Module, leaf: str, layer: Layer, coding: Coding, scale: Tensor | None) -> None:
    """The very values that the coding decodes to, to the bit; over `scale` [columns] if there is one."""
    matrix = coding.decode()
    getattr(owner, leaf).copy_(layer.from_matrix(matrix if scale is None else matrix / scale))
