"""Where each initializer lives in the torch module, and how it looks there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

SAME, TRANSPOSED, STACKED, BUFFER = "same", "transposed", "stacked", "buffer"


@dataclass(frozen=True)
class Slot:
    """An initializer held by one or more parameters.

    Args:
        paths: the parameters, in order.
        layout: `SAME`; `TRANSPOSED` (a Linear's weight for a MatMul); `STACKED` (one set for each direction of a
            recurrent layer, joined along rows, then stacked); `BUFFER` (as `SAME`, not trained).
        directions: how many sets a stacked slot has.
    """

    paths: tuple[str, ...]
    layout: str = SAME
    directions: int = 1

    def tensor(self, network: nn.Module) -> Tensor:
        """The initializer's current value in its own layout; raises AttributeError if the module is another now."""
        found = [read(network, p) for p in self.paths]
        if self.layout == STACKED:
            size = len(found) // self.directions
            return torch.stack([torch.cat(found[d * size : (d + 1) * size]) for d in range(self.directions)])
        return found[0].t() if self.layout == TRANSPOSED else found[0]


def read(network: nn.Module, path: str) -> Tensor:
    """A parameter or buffer by its path; through a parametrization if there is one."""
    module, _, name = path.rpartition(".")
    tensor = getattr(network.get_submodule(module), name)
    if not isinstance(tensor, Tensor):
        raise AttributeError(path)
    return tensor
