"""From labels to groups: which indices of which tensors go together."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from torch import nn

from lessen.models.groups import rules
from lessen.models.groups.flow import Choice, Flow
from lessen.models.groups.trace import Inputs, Trace, record, tensor_names

_ROUNDS = 4  # propagations at most; each tries other splits where the last one could remove nothing


@dataclass(frozen=True, eq=False)
class Member:
    """One tensor's share in a group: unit u is `index[u]` (an array [size, channels]) along `dim` of `path`."""

    path: str
    dim: int
    index: np.ndarray


@dataclass(frozen=True, eq=False)
class Group:
    """Dimensions of several tensors that can only shrink together.

    Attributes:
        name: path of the module that makes these values (the first one, in order of execution).
        size: number of units; each can go alone.
        unit: channels of the main producer that make a unit (the width of a head, ...).
        members: every tensor that loses indices, the main producer's first.
        producers: modules that lose outputs.
        consumers: modules that lose inputs.
        kind: "channels" (convolutions) | "features" (matrix products) | "heads" | "embedding".
        renormalized: operations that compute statistics over these units; with fewer of them they see fewer.
        parameters: number of values in the members' rows.
    """

    name: str
    size: int
    unit: int
    members: tuple[Member, ...]
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    kind: str
    renormalized: tuple[str, ...]


@dataclass(frozen=True)
class Left:
    """A dimension of a tensor that can't shrink, and why."""

    name: str
    dim: int
    reason: str


@dataclass(frozen=True, eq=False)
class Grouping:
    """What of a network can shrink, and what can't.

    Attributes:
        groups: in order of execution.
        left: dimensions of parameters that belong to no group.
        reachable: share of the parameters' values that some group can remove.
    """

    groups: tuple[Group, ...]
    left: tuple[Left, ...]
    reachable: float
    trace: Trace
    flow: Flow

    def __getitem__(self, name: str) -> Group:
        return next(g for g in self.groups if g.name == name)


def find_groups(model: nn.Module, example_inputs: Inputs, head_width: bool = False) -> Grouping:
    """Find the dimensions that must shrink together.

    One recorded forward (see `trace`), then labels are propagated through it (see `flow`). Where one dimension is
    split into several (heads × width, groups × channels), either could carry the units; where the first choice leaves
    nothing to remove, the next is tried.

    Args:
        model: any network that runs; left as it was found.
        example_inputs: tuple of positional, or dict of named inputs.
        head_width: in attention, make all heads narrower instead of removing whole heads.

    Source: the idea of dependency groups is that of DepGraph (Fang et al., 2023), here on ATen operations and with
    labels for single indices instead of layers.
    """
    trace = record(model, example_inputs)
    names = tensor_names(model)
    best: tuple[Flow, _Units] | None = None
    choices: dict[Choice, int] = {}
    for _ in range(_ROUNDS):
        flow = propagate(trace, choices, head_width=head_width)
        units = _Units(flow)
        if best is None or units.worth > best[1].worth:
            best = (flow, units)
        following = _next_choices(flow, units, choices)
        if following == choices:
            break
        choices = following
    assert best is not None  # one round at least
    return _grouping(model, trace, *best, names)


def propagate(
    trace: Trace, choices: dict[Choice, int] | None = None, known: Flow | None = None, head_width: bool = False
) -> Flow:
    """Labels of every tensor in the trace.

    Args:
        choices: which of their options the splits take; 0 where nothing is said.
        known: a propagation of the same network traced otherwise: what it ties is tied from the start.
        head_width: see `find_groups`.
    """
    flow = Flow(trace, choices or {}, head_width or (known is not None and known.head_width))
    if known is not None:
        flow.adopt(known)
    for op in trace.ops:
        rules.apply(flow, op)
    for refs, reason in ((trace.inputs, "input of the network"), (trace.outputs, "output of the network")):
        for ref in refs:
            for labels in flow.dims(ref):
                flow.block(labels, reason)
    return flow


class _Units:
    """Connected atoms, and those that can go."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.root = flow.find(np.arange(flow.count)) if flow.count else np.arange(0)
        self.free = np.ones(flow.count, bool)
        for labels, _ in flow.blocks:
            self.free[self.root[labels]] = False
        self.groups = self._isomorphic()
        self.grouped = np.zeros(flow.count, bool)
        for roots in self.groups.values():
            self.grouped[roots] = True
        self.worth = sum(self.grouped[self.root[a:b]].sum() * self._row(path, dim) for a, b, path, dim in flow.owners)

    def _row(self, path: str, dim: int) -> int:
        shape = self.shapes[path]
        return int(np.prod(shape)) // shape[dim]

    @functools.cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {path: ref.shape for path, ref in self.flow.trace.by_path.items()}

    def _isomorphic(self) -> dict[tuple, np.ndarray]:
        """Roots of units with the same signature: ((owner, how many of its indices), ...), owners in order."""
        roots, owners, counts = self._incidence()
        if not len(roots):
            return {}
        rng = np.random.default_rng(0)
        codes = rng.integers(1, 2**62, len(self.flow.owners), dtype=np.uint64)
        codes = codes[owners] * (2 * counts.astype(np.uint64) + 1)  # wraps around, as a hash may
        total = np.zeros(self.flow.count, np.uint64)
        np.add.at(total, roots, codes)
        order = np.argsort(roots, kind="stable")
        found, start = np.unique(roots[order], return_index=True)
        stop = np.append(start[1:], len(roots))
        _, which, many = np.unique(total[found], return_inverse=True, return_counts=True)
        ends = np.cumsum(many)
        by_code = np.argsort(which, kind="stable")
        out = {}
        for k in np.flatnonzero(many > 1):
            same = by_code[ends[k] - many[k] : ends[k]]
            mine = order[start[same[0]] : stop[same[0]]]
            out[tuple(zip(owners[mine].tolist(), counts[mine].tolist()))] = found[same]
        return out

    def _incidence(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(root, owner, number of the owner's indices) for every free root and owner that meet."""
        owner = np.full(self.flow.count, -1)
        for k, (start, stop, _, _) in enumerate(self.flow.owners):
            owner[start:stop] = k
        mine = np.flatnonzero((owner >= 0) & self.free[self.root])
        keys, counts = np.unique(owner[mine] * self.flow.count + self.root[mine], return_counts=True)
        return keys % max(1, self.flow.count), keys // max(1, self.flow.count), counts


def _next_choices(flow: Flow, units: _Units, choices: dict[Choice, int]) -> dict[Choice, int]:
    following = dict(choices)
    for key, (atoms, options) in flow.splits.items():
        if not units.grouped[units.root[atoms]].any() and choices.get(key, 0) + 1 < options:
            following[key] = choices.get(key, 0) + 1
    return following


def _grouping(model: nn.Module, trace: Trace, flow: Flow, units: _Units, names: dict) -> Grouping:
    roles = _Roles(flow, units)
    found = [_group(flow, units, roles, s, r) for s, r in units.groups.items()]
    groups = [g for g in found if g is not None]
    order = {path: i for i, (_, _, path, _) in enumerate(flow.owners)}
    groups.sort(key=lambda g: order[g.members[0].path])
    groups = _named(groups)
    return Grouping(tuple(groups), tuple(_left(flow, units, names)), _reachable(groups, model), trace, flow)


class _Roles:
    """Who makes and who consumes each unit."""

    def __init__(self, flow: Flow, units: _Units) -> None:
        self.made, self.used = np.full(flow.count, -1), np.full(flow.count, -1)
        for labels, role, op in reversed(flow.roles):
            (self.made if role == "out" else self.used)[labels] = op
        self.heads: set[int] = set()
        for labels, _ in flow.split_kinds:
            self.heads.update(units.root[labels].tolist())
        self.norms: dict[int, set[str]] = defaultdict(set)
        first = np.array([r[0] for r in units.groups.values()], dtype=np.int64)
        for limit in flow.limits:
            if limit.mode == "keep":
                touched = np.isin(first, np.concatenate([units.root[labels] for _, _, labels in limit.cuts]))
                for root in first[touched].tolist():
                    self.norms[root].add(str(flow.trace.ops[limit.op]))


def _group(flow: Flow, units: _Units, roles: _Roles, signature: tuple, roots: np.ndarray) -> Group | None:
    members, producers, consumers = [], dict[str, int](), dict[str, int]()
    place = np.full(flow.count, -1)
    place[roots] = np.arange(len(roots))
    for owner, count in signature:
        start, stop, path, dim = flow.owners[owner]
        unit = place[units.root[start:stop]]
        mine = np.flatnonzero(unit >= 0)
        index = mine[np.argsort(unit[mine], kind="stable")].reshape(len(roots), count)
        members.append(Member(path, dim, index))
        for table, found in ((roles.made, producers), (roles.used, consumers)):
            ops = table[start:stop][mine]
            if (ops >= 0).any():
                found.setdefault(module_of(path), int(ops[ops >= 0].min()))
    if not producers:
        return None  # nobody makes these values: only tensors that meet each other
    first = min(producers, key=lambda m: producers[m])
    members.sort(key=lambda m: module_of(m.path) != first)
    kind = _kind(flow, members[0], int(roots[0]) in roles.heads)
    return Group(
        first,
        len(roots),
        members[0].index.shape[1],
        tuple(members),
        tuple(producers),
        tuple(consumers),
        kind,
        tuple(sorted(roles.norms.get(int(roots[0]), ()))),
    )


def _kind(flow: Flow, member: Member, heads: bool) -> str:
    ref = flow.trace.by_path[member.path]
    names = {op.func._schema.name.removeprefix("aten::") for op in flow.trace.users.get(ref.id, [])}
    if heads and member.index.shape[1] > 1:
        return "heads"
    if names & {"embedding"}:
        return "embedding"
    return "channels" if ref.ndim > 2 else "features"


def _named(groups: Iterable[Group]) -> list[Group]:
    """Names that are unique: a second group of the same producer gets a number."""
    seen: dict[str, int] = defaultdict(int)
    out = []
    for group in groups:
        seen[group.name] += 1
        n = seen[group.name]
        out.append(group if n == 1 else Group(**{**vars(group), "name": f"{group.name}#{n}"}))
    return out


def module_of(path: str) -> str:
    """The module that holds a parameter: "a.b.weight" is in "a.b", a parametrized one in the module above."""
    return path.split(".parametrizations.")[0] if ".parametrizations." in path else path.rpartition(".")[0]


def _left(flow: Flow, units: _Units, names: dict) -> Iterable[Left]:
    reason = np.full(flow.count, -1)
    for k in range(len(flow.blocks) - 1, -1, -1):  # the first block of a unit has the last word
        reason[units.root[flow.blocks[k][0]]] = k
    seen = set()
    for start, stop, path, dim in flow.owners:
        seen.add(path)
        mine = units.root[start:stop]
        stays = mine[~units.grouped[mine]]
        if len(stays):
            known = reason[stays][reason[stays] >= 0]
            yield Left(path, dim, flow.blocks[known[0]][1] if len(known) else "all of it is one unit")
    for path, tensor in names.items():
        if path not in seen and tensor.ndim and max(tensor.shape) > 1:
            yield Left(path, 0, "not used in the forward")


def _reachable(groups: Iterable[Group], model: nn.Module) -> float:
    params = dict(model.named_parameters())
    hit: dict[str, dict[int, np.ndarray]] = defaultdict(dict)
    for member in (m for g in groups for m in g.members if m.path in params):
        size = params[member.path].shape[member.dim]
        mask = hit[member.path].setdefault(member.dim, np.zeros(size, bool))
        mask[member.index.ravel()] = True
    total = sum(p.numel() for p in params.values())
    kept = sum(params[p].numel() * np.prod([1 - m.mean() for m in d.values()]) for p, d in hit.items())
    rest = sum(p.numel() for n, p in params.items() if n not in hit)
    return float(1 - (kept + rest) / total) if total else 0.0
