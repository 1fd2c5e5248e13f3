"""A removal, worked out: which atoms go, what every tensor's shape becomes, which slices the parameters lose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from lessen.errors import LessenError, did_you_mean
from lessen.models.groups.flow import Flow
from lessen.models.groups.grouping import Group, Grouping
from lessen.models.groups.trace import Ref
from lessen.models.surgery.edits import Edit

Removals = Mapping[str, torch.Tensor | Sequence[int]]


class Cut:
    """What goes, in the vocabulary of one propagation."""

    def __init__(self, flow: Flow, edits: Sequence[Edit]) -> None:
        self.flow, self.trace, self.edits = flow, flow.trace, tuple(edits)
        self.root = flow.find(np.arange(flow.count))
        self.gone = np.zeros(flow.count, bool)
        kept = {(e.path, e.dim): e.kept for e in edits}
        for start, stop, path, dim in flow.owners:
            if (path, dim) in kept:
                lost = np.ones(stop - start, bool)
                lost[list(kept[path, dim])] = False
                self.gone[self.root[start:stop][lost]] = True

    def lost(self, labels: np.ndarray) -> np.ndarray:
        """Which indices of a dimension go."""
        return self.gone[self.root[labels]]

    def shape(self, ref: Ref) -> tuple[int, ...]:
        """A tensor's shape afterwards."""
        dims = self.flow.dims(ref)
        return tuple(s if d is None else s - int(self.lost(d).sum()) for s, d in zip(ref.shape, dims))

    def all_edits(self) -> list[Edit]:
        """The slices of every tensor of this trace, constants that only it knows included."""
        found = []
        for start, stop, path, dim in self.flow.owners:
            lost = self.gone[self.root[start:stop]]
            if lost.any():
                found.append(Edit(path, dim, tuple(np.flatnonzero(~lost).tolist())))
        return found

    def kept_before(self, ref: Ref, dim: int, end: int) -> int:
        """How many of the first `end` indices stay."""
        labels = self.flow.dims(ref)[dim]
        return end if labels is None else end - int(self.lost(labels)[:end].sum())


def edits_of(grouping: Grouping, removals: Removals) -> list[Edit]:
    """The slices that remove these units, one for each tensor and dimension."""
    lost: dict[tuple[str, int], set[int]] = {}
    for name, units in removals.items():
        group = _group(grouping, name)
        for member in group.members:
            chosen = member.index[_units(group, units)].ravel().tolist()
            lost.setdefault((member.path, member.dim), set()).update(chosen)
    sizes = {(path, dim): stop - start for start, stop, path, dim in grouping.flow.owners}
    return [
        Edit(path, dim, tuple(i for i in range(sizes[path, dim]) if i not in gone))
        for (path, dim), gone in lost.items()
        if gone
    ]


def _group(grouping: Grouping, name: str) -> Group:
    known = {g.name: g for g in grouping.groups}
    if name not in known:
        raise LessenError(f"no group {name!r}", where="removals", mend=did_you_mean(name, known))
    return known[name]


def _units(group: Group, units: torch.Tensor | Sequence[int]) -> list[int]:
    chosen = [int(u) for u in (units.tolist() if isinstance(units, torch.Tensor) else units)]
    if any(not 0 <= u < group.size for u in chosen):
        raise LessenError(
            f"units {sorted(chosen)} of a group of {group.size}",
            where=group.name,
            mend=f"give units from 0 to {group.size - 1}",
        )
    if len(set(chosen)) >= group.size:
        raise LessenError(f"all {group.size} units would go", where=group.name, mend="leave at least one unit")
    return sorted(set(chosen))
