"""Training through codings: the weight that the network computes with is always the decoded one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.utils.parametrize as parametrize
from torch import Tensor, nn

from ..codings import Coding, LowRank, nearest
from ..models import Layer


class _StraightThrough(nn.Module):
    """weight -> decode(nearest(weight)), with the gradient of the identity (Bengio et al. 2013)."""

    def __init__(self, layer: Layer, coding: Coding, keep_zeros: bool) -> None:
        super().__init__()
        self.layer, self.coding, self.keep_zeros = layer, coding, keep_zeros

    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            held = self.layer.from_matrix(self.recode(weight).decode())
        return weight + (held - weight).detach()

    def recode(self, weight: Tensor) -> Coding:
        return nearest(self.coding, self.layer.to_matrix(weight.detach()).float(), self.keep_zeros)


class _FixedFactors(nn.Module):
    """A low-rank weight is not trained here: it stays what it is."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.detach()


@contextmanager
def through_codings(
    module: nn.Module, layers: Mapping[str, Layer], codings: Mapping[str, Coding], keep_zeros: frozenset[str]
) -> Iterator[dict[str, Coding]]:
    """While the context is open, every coded weight of `module` is a parametrization by its coding.

    On leaving, the parameters hold the decoded weights and the yielded dictionary the codings of the trained ones.
    """
    trained: dict[str, Coding] = {}
    for name, coding in codings.items():
        owner, leaf = module.get_submodule(layers[name].module), name.rpartition(".")[2]
        through = (
            _FixedFactors()
            if isinstance(coding, LowRank)
            else _StraightThrough(layers[name], coding, name in keep_zeros)
        )
        parametrize.register_parametrization(owner, leaf, through, unsafe=True)
    try:
        yield trained
    finally:
        for name, coding in codings.items():
            owner, leaf = module.get_submodule(layers[name].module), name.rpartition(".")[2]
            through = owner.parametrizations[leaf][0]  # type: ignore[index,union-attr]
            raw = owner.parametrizations[leaf].original  # type: ignore[index,union-attr]
            trained[name] = through.recode(raw) if isinstance(through, _StraightThrough) else coding
            parametrize.remove_parametrizations(owner, leaf, leave_parametrized=True)
