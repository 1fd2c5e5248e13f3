"""Changes of weights that change nothing of what is computed: each is carried out in float64, run, and undone if not.

What lies between two layers is not read off a list of operators, so no operator can be forgotten.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .groups import Group

_SAME = 1e-7  # of the outputs' size: what float64 leaves of a change that is exact
Undo = dict[str, Tensor]
Part = tuple[str, int, np.ndarray]  # parameter, dimension, which indices of it: [blocks, width]


@dataclass(frozen=True, eq=False)
class Refolded:
    """A network with other weights that computes the same.

    Args:
        module: a copy.
        folded: what was changed: "tokens (128 channels)", "blocks.0.out (4 heads of 32)".
        left: (name, why not) of what could not be.
    """

    module: nn.Module
    folded: tuple[str, ...]
    left: tuple[tuple[str, str], ...]


class Exact:
    """A float64 copy under work."""

    def __init__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.original, self.module = module, copy.deepcopy(module).double().eval()
        self.inputs = tuple(x.double() if x.is_floating_point() else x for x in inputs)
        self.wanted = self._outputs()

    def _outputs(self) -> list[Tensor]:
        return [t.clone() for t in tree_leaves(self.module(*self.inputs)) if isinstance(t, Tensor)]

    def kept(self, change: Callable[[], Undo | None]) -> bool:
        """Makes a change; False, and as if nothing had been, where an output moved."""
        undo = change()
        if undo is None:
            return False
        pairs = zip(self._outputs(), self.wanted, strict=True)
        if all(float((a - b).norm()) <= _SAME * float(b.norm()) for a, b in pairs):
            return True
        for name, value in undo.items():
            self.module.get_parameter(name).copy_(value)
        return False

    def refolded(self, folded: Sequence[str], left: Sequence[tuple[str, str]]) -> Refolded:
        """A copy of the original with the weights as they are now."""
        made = copy.deepcopy(self.original)
        for name, p in made.named_parameters():
            p.copy_(self.module.get_parameter(name))
        return Refolded(made, tuple(folded), tuple(left))

    def is_norm(self, path: str) -> bool:
        """Whether a LayerNorm with a gain is there."""
        owner = self.module.get_submodule(path)
        return isinstance(owner, nn.LayerNorm) and owner.elementwise_affine

    def norms(self) -> list[tuple[str, list[str]]]:
        """Norms, and the linear layers that read their very output."""
        made: dict[str, Tensor] = {}
        read: list[tuple[str, Tensor]] = []

        def see(path: str) -> Callable[..., None]:
            def hook(owner: nn.Module, args: Any, output: Any) -> None:
                if isinstance(owner, nn.LayerNorm):
                    made[path] = output
                elif args:
                    read.append((path, args[0]))

            return hook

        kinds = (nn.LayerNorm, nn.Linear)
        handles = [m.register_forward_hook(see(n)) for n, m in self.module.named_modules() if isinstance(m, kinds)]
        try:
            self.module(*self.inputs)
        finally:
            for handle in handles:
                handle.remove()
        pairs = {n: [p for p, x in read if x is y] for n, y in made.items() if self.is_norm(n)}
        return [(n, readers) for n, readers in pairs.items() if readers]

    def into_readers(self, norm: str, readers: Sequence[str], factor: Tensor) -> Undo:
        """Gain and offset of a norm divided by `factor` [channels], its readers' columns multiplied by it."""
        undo = self.saved([f"{norm}.weight", f"{norm}.bias", *(f"{r}.weight" for r in readers)])
        for reader in readers:
            self.module.get_parameter(f"{reader}.weight").mul_(factor)
        for name in (f"{norm}.weight", f"{norm}.bias"):
            if name in undo:
                self.module.get_parameter(name).div_(factor)
        return undo

    def along(self, parts: Sequence[Part], change: Callable[[Part, Tensor], Tensor]) -> Undo:
        """`change` of these slices of parameters, [blocks, width, ...]; one held under two names is changed once."""
        undo = self.saved([path for path, _, _ in parts])
        for part in parts:
            path, dim, index = part
            if path in undo:
                moved = self.module.get_parameter(path).movedim(dim, 0)
                at = torch.from_numpy(np.ascontiguousarray(index)).long()
                moved[at] = change(part, moved[at])
        return undo

    def saved(self, names: Sequence[str]) -> Undo:
        """Copies of those of these parameters that there are."""
        held = dict(self.module.named_parameters())
        return {n: held[n].clone() for n in names if n in held}

    def readers(self, group: Group) -> list[Part]:
        """Matrices that read a group's values as their inputs."""
        return [(m.path, 1, m.index) for m in group.members if m.dim == 1 and self._reads(m.path)]

    def _reads(self, path: str) -> bool:
        looked_up = isinstance(self.module.get_submodule(path.rpartition(".")[0]), nn.Embedding)
        return self.module.get_parameter(path).ndim == 2 and not looked_up


def values(group: Group, reader: Part) -> Iterator[list[Part]]:
    """Which rows of which producer may make what a reader gets: each third of a joint qkv, the last one first."""
    width = reader[2].shape[1]
    for name in dict.fromkeys(m.path.rpartition(".")[0] for m in group.members if m.dim == 0 and m.path != reader[0]):
        members = [m for m in group.members if m.dim == 0 and m.path.rpartition(".")[0] == name]
        for at in reversed(range(0, members[0].index.shape[1] - width + 1, width)):
            yield [(m.path, 0, m.index[:, at : at + width]) for m in members]
