"""Who reads a group: the weights whose columns at zero make a unit count for nothing, as if it were gone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from lessen.models.groups.flow import Flow
from lessen.models.groups.grouping import Group, Grouping, Member


def consumed(flow: Flow) -> set[tuple[str, int]]:
    """(tensor, dimension) of every tensor that reads channels by multiplying and summing them."""
    atoms = {int(a) for labels, role, _ in flow.roles if role == "in" for a in labels[:1]}
    return {(path, dim) for start, stop, path, dim in flow.owners if any(start <= a < stop for a in atoms)}


def readers(grouping: Grouping) -> tuple[dict[str, tuple[Member, ...]], dict[str, str]]:
    """By group, the tensors that read its units, each by one of its dimensions.

    With a unit's columns in them at zero, the network computes what it computes without the unit.

    Returns:
        group -> its readers; and for the groups of which this can't be said, the reason.
    """
    read, roots = consumed(grouping.flow), _roots(grouping)
    found, left = {}, {}
    for group in grouping.groups:
        members = tuple(m for m in group.members if (m.path, m.dim) in read)
        why = _hindrance(grouping.flow, group, members, roots[group.name])
        if why:
            left[group.name] = why
        else:
            found[group.name] = members
    return found, left


def _roots(grouping: Grouping) -> dict[str, np.ndarray]:
    starts = {(path, dim): start for start, _, path, dim in grouping.flow.owners}
    first: Mapping[str, Member] = {g.name: g.members[0] for g in grouping.groups}
    return {n: np.unique(grouping.flow.find(starts[m.path, m.dim] + m.index.ravel())) for n, m in first.items()}


def _hindrance(flow: Flow, group: Group, members: tuple[Member, ...], roots: np.ndarray) -> str:
    if not members:
        return "no weight reads them"
    hidden = next((m.path for m in members if ".parametrizations." in m.path), "")
    if hidden:
        return f"a weight that reads them is computed from others ({hidden})"
    return next(_counted(flow, roots), "")


def _counted(flow: Flow, roots: np.ndarray) -> Iterator[str]:
    """Operations in which a unit counts although nothing reads it afterwards."""
    for limit in flow.limits:
        if not any(np.isin(flow.find(labels), roots).any() for _, _, labels in limit.cuts):
            continue
        op = flow.trace.ops[limit.op]
        if limit.mode == "keep":
            yield f"statistics are computed over them ({op})"
        elif not any(flow.is_static(r) for r in op.refs):
            yield f"two activations are multiplied and summed over them ({op})"
