"""Narrower heads: in attention, the width of all heads shrinks as well as their number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import nn

from ..errors import LessenError
from ..models.groups import Group, Grouping, find_groups
from ..models.surgery import Edit, Setting, shrink_with_edits

WIDTH = "head width "  # of such a group among a plan's channels: "head width layer.0.attention.query": 3 7

Units = Mapping[str, tuple[int, ...]]
Edits = tuple[Edit | Setting, ...]


def grouped(module: nn.Module, inputs: tuple, head_width: bool) -> Grouping:
    """`find_groups`; with `head_width` also the groups of places within heads, named `WIDTH` + their own names."""
    grouping = find_groups(module, inputs)
    if not head_width:
        return grouping
    known = {_shape(g) for g in grouping.groups}
    found = find_groups(module, inputs, head_width=True).groups
    within = (replace(g, name=WIDTH + g.name) for g in found if _shape(g) not in known)
    return replace(grouping, groups=(*grouping.groups, *within))


def _shape(group: Group) -> tuple:
    return group.size, group.unit, frozenset((m.path, m.dim) for m in group.members)


def without_units(module: nn.Module, units: Units, inputs: tuple, grouping: Grouping) -> tuple[nn.Module, Edits]:
    """A copy without these units: whole ones first, then places within the heads that are left.

    Raises:
        LessenError: they can't be removed, or there is no such place once heads are gone.
    """
    whole = {n: list(u) for n, u in units.items() if not n.startswith(WIDTH)}
    within = {n.removeprefix(WIDTH): list(u) for n, u in units.items() if n.startswith(WIDTH)}
    if not within:
        made = shrink_with_edits(module, whole, inputs, grouping)
        return made.model, made.edits
    made = shrink_with_edits(module, whole, inputs, grouping)
    narrow = find_groups(made.model, inputs, head_width=True)
    _check(narrow, within)
    second = shrink_with_edits(made.model, within, inputs, narrow)
    return second.model, (*made.edits, *second.edits)


def _check(grouping: Grouping, units: Mapping[str, Sequence[int]]) -> None:
    names = {g.name for g in grouping.groups}
    lost = next((n for n in units if n not in names), None)
    if lost is not None:
        raise LessenError("its heads can't become narrower once some of them are gone", where=lost,
                          mend="remove heads, or make all of them narrower")  # fmt: skip
