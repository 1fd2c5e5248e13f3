"""Columns of layers multiplied, and what makes their input divided by the same: nothing else moves."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .exact import Exact, Part, Refolded, Undo, values
from .groups import Group, find_groups

Scale = Callable[[Sequence[str]], Tensor | None]


@torch.no_grad()
def rescaled(module: nn.Module, inputs: tuple[Tensor, ...], scale: Scale) -> Refolded:
    """A copy whose layers' columns hold weight * s; 1 / s is folded into what makes their input.

    That is a LayerNorm that only linear layers read, the values of an attention, or a layer before a ReLU.

    Args:
        module: in evaluation mode, batch norms folded; not changed.
        inputs: a sample or two, to run it with.
        scale: names of the weights that read one and the same input -> s > 0, [columns], or None for none.
    """
    found = find_groups(module, inputs).groups
    work = Exact(module, inputs)
    folded: list[str] = []
    left: list[tuple[str, str]] = []
    for norm, readers in work.norms():
        s = scale([f"{r}.weight" for r in readers])
        if s is not None and work.kept(functools.partial(work.into_readers, norm, readers, s.double())):
            folded += readers
        elif s is not None:
            left += [(r, f"not only linear layers read {norm}") for r in readers]
    done = {*folded, *(name for name, _ in left)}
    for group in found:
        for reader in work.readers(group):
            name = reader[0].rpartition(".")[0]
            s = None if name in done else scale([reader[0]])
            if s is not None and _between(work, group, reader, s.double()):
                folded.append(name)
            elif s is not None:
                left.append((name, "something that minds a factor makes its input"))
    return work.refolded(folded, left)


def _between(work: Exact, group: Group, reader: Part, s: Tensor) -> bool:
    """Whether one of a group's producers could take 1 / s of this reader."""
    factor = s[torch.from_numpy(reader[2]).long()]
    return any(work.kept(functools.partial(_apart, work, made, reader, factor)) for made in values(group, reader))


def _apart(work: Exact, made: Sequence[Part], reader: Part, factor: Tensor) -> Undo:
    """Rows divided by `factor` [blocks, width], the reader's columns multiplied by it."""

    def change(part: Part, x: Tensor) -> Tensor:
        by = factor.reshape(*factor.shape, *[1] * (x.ndim - 2))
        return x * by if part is reader else x / by

    return work.along([*made, reader], change)
