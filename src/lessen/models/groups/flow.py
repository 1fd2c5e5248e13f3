"""Labels of tensor dimensions, and the union-find that ties them together.

Every index of every dimension of a parameter has an *atom* (a number). A tensor's dimension carries one atom for each
of its indices: which channel of which parameter it is. Operations hand the atoms on, permuted, repeated or cut just as
they do the values, and tie together those that must go together. A dimension that cannot shrink carries `None`;
an atom that meets one is *blocked*, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lessen.models.groups.trace import Op, Ref, Trace

Labels = Any  # an array with the atoms of one dimension's indices, or None: it can't shrink
Choice = tuple[int, int]  # operation and running number within it


@dataclass(frozen=True)
class Limit:
    """Where removed indices must not count: `cuts` are (place of the argument, dimension, atoms) of operation `op`.

    mode "zero": the removed indices are zeroed (a contraction of two activations). mode "keep": the operation runs
    on the kept indices only (a mean, a normalization: it counts its elements).
    """

    op: int
    mode: str
    cuts: tuple[tuple[int, int, np.ndarray], ...]


class Flow:
    """The state of one propagation through a trace: atoms of every tensor, ties, blocks, roles and limits."""

    def __init__(self, trace: Trace, choices: dict[Choice, int], head_width: bool = False) -> None:
        self.trace, self.chosen, self.head_width = trace, choices, head_width
        self.parent = np.arange(1024)
        self.count = 0
        self.flexible = np.zeros(1024, bool)  # atoms of tensors made in the code, as wide as anybody wants
        self.values: dict[int, list[Labels]] = {}
        self.static: set[int] = set()  # tensors that depend on parameters only
        self.owners: list[tuple[int, int, str, int]] = []  # first atom, one past the last, parameter, dim
        self.blocks: list[tuple[np.ndarray, str]] = []
        self.roles: list[tuple[np.ndarray, str, int]] = []  # parameter atoms, "in" | "out", operation
        self.limits: list[Limit] = []
        self.splits: dict[Choice, tuple[np.ndarray, int]] = {}  # atoms carried, number of options
        self.split_kinds: list[tuple[np.ndarray, str]] = []

    # atoms

    def fresh(self, size: int, flexible: bool = False) -> np.ndarray:
        """New atoms that nothing else knows."""
        start, self.count = self.count, self.count + size
        if self.count > len(self.parent):
            room = max(self.count, 2 * len(self.parent))
            self.parent = np.concatenate([self.parent, np.arange(len(self.parent), room)])
            self.flexible = np.concatenate([self.flexible, np.zeros(room - len(self.flexible), bool)])
        self.flexible[start : self.count] = flexible
        return np.arange(start, self.count)

    def find(self, atoms: np.ndarray) -> np.ndarray:
        """The representative of each atom."""
        while True:
            up = self.parent[atoms]
            if np.array_equal(up, atoms):
                return atoms
            self.parent[atoms] = atoms = self.parent[up]

    def tie(self, a: np.ndarray, b: np.ndarray) -> None:
        """a[i] and b[i] go or stay together."""
        if a is b:
            return
        while True:
            ra, rb = self.find(a), self.find(b)
            differ = ra != rb
            if not differ.any():
                return
            low, high = np.minimum(ra, rb)[differ], np.maximum(ra, rb)[differ]
            np.minimum.at(self.parent, high, low)
            np.logical_and.at(self.flexible, low, self.flexible[high])

    def block(self, labels: Labels, reason: str) -> None:
        """These atoms stay, for this reason."""
        if labels is not None and len(labels):
            self.blocks.append((labels, reason))

    def join(self, candidates: Sequence[Labels], reason: str) -> Labels:
        """One dimension seen by several tensors: tie them; one that can't shrink holds all the others."""
        known = [c for c in candidates if c is not None]
        for other in known[1:]:
            self.tie(known[0], other)
        if known and len(known) < len(candidates):
            self.block(known[0], reason)
        return known[0] if known else None

    # tensors

    def dims(self, ref: Ref | None) -> list[Labels]:
        """The atoms of each dimension; a parameter's are made at its first use."""
        if ref is None:
            return []
        if ref.id not in self.values:
            self.values[ref.id] = self._param(ref) if ref.id in self.trace.params else [None] * ref.ndim
        return list(self.values[ref.id])

    def _param(self, ref: Ref) -> list[Labels]:
        self.static.add(ref.id)
        dims: list[Labels] = []
        for dim, size in enumerate(ref.shape):
            atoms = self.fresh(size) if size > 1 else None
            if atoms is not None:
                self.owners.append((int(atoms[0]), int(atoms[-1]) + 1, self.trace.params[ref.id], dim))
            dims.append(atoms)
        return dims

    def adopt(self, known: Flow) -> None:
        """Tie the parameters' atoms that another propagation has tied."""
        paths = {path: self.trace.refs[i] for i, path in self.trace.params.items()}
        ours, theirs = [], []
        for start, stop, path, dim in known.owners:
            labels = self.dims(paths[path])[dim] if path in paths else None
            if labels is not None and len(labels) == stop - start:
                ours.append(labels)
                theirs.append(known.find(np.arange(start, stop)))
        if ours:
            atoms, roots = np.concatenate(ours), np.concatenate(theirs)
            order = np.argsort(roots, kind="stable")
            same = roots[order][1:] == roots[order][:-1]
            self.tie(atoms[order][:-1][same], atoms[order][1:][same])

    def is_static(self, ref: Ref) -> bool:
        return ref.id in self.static or ref.id in self.trace.params

    def role(self, labels: Labels, role: str, op: Op) -> None:
        if labels is not None:
            self.roles.append((labels, role, op.index))

    # structure

    def split(self, atoms: Labels, shape: Sequence[int], op: Op, default: int, kind: str = "") -> list[Labels]:
        """One labelled dimension becomes several: one of them carries the labels, the others can't shrink.

        Args:
            default: which of `shape` carries if nothing speaks for another (see `find_groups`: failing ones are
                tried again with the next).
            kind: what units of the carrier are called ("heads", ...).
        """
        if atoms is None:
            return [None] * len(shape)
        block = self.find(atoms).reshape(shape)
        real = [i for i, size in enumerate(shape) if size > 1]
        carrier = self._natural(block, real)
        if carrier is None:
            key = (op.index, sum(k[0] == op.index for k in self.splits))
            order = [default, *(i for i in real if i != default)]
            if kind == "heads" and self.head_width:
                order = order[1:] + order[:1]
            carrier = order[self.chosen.get(key, 0) % len(order)]
            self.splits[key] = (atoms, len(order))
            if kind and carrier == default:
                self.split_kinds.append((atoms, kind))
        rows = np.moveaxis(np.asarray(atoms).reshape(shape), carrier, 0).reshape(shape[carrier], -1)
        self.tie(np.repeat(rows[:, 0], rows.shape[1]), rows.reshape(-1))
        out: list[Labels] = [None] * len(shape)
        out[carrier] = rows[:, 0].copy()
        return out

    @staticmethod
    def _natural(block: np.ndarray, real: list[int]) -> int | None:
        """The only dimension along which the atoms differ, if there is one."""
        differs = [i for i in real if (block != np.take(block, [0], axis=i)).any()]
        return differs[0] if len(differs) == 1 else (real[0] if real and not differs else None)

    def merge(self, parts: Sequence[Labels], shape: Sequence[int], op: Op) -> Labels:
        """Several dimensions become one; if two of them could shrink, the richer one may, the other can't."""
        labelled = [i for i, p in enumerate(parts) if p is not None]
        if not labelled:
            return None
        worth = [(not self._soft(parts[i]), len(np.unique(self.find(parts[i]))), -i) for i in labelled]
        keep = -max(worth)[2]
        for i in labelled:
            if i != keep:
                self.block(parts[i], f"merged with another dimension that can shrink ({op})")
        view = [1] * len(shape)
        view[keep] = shape[keep]
        return np.broadcast_to(np.asarray(parts[keep]).reshape(view), shape).reshape(-1)

    def _soft(self, labels: Labels) -> bool:
        return labels is not None and bool(self.flexible[self.find(labels)].all())

    def limit(self, op: Op, mode: str, cuts: Sequence[tuple[int, int, Labels]]) -> None:
        """Remember that this operation sees removed indices (see `Limit`)."""
        known = tuple((place, dim, labels) for place, dim, labels in cuts if labels is not None)
        if known:
            self.limits.append(Limit(op.index, mode, known))

    def contract(self, a: tuple[Ref, int, int], b: tuple[Ref, int, int], op: Op) -> None:
        """Two dimensions are multiplied and summed: tie them, note who consumes whom.

        Each operand is (tensor, its dimension, its place among the arguments).
        """
        la, lb = self.dims(a[0])[a[1]], self.dims(b[0])[b[1]]
        joined = self.join([la, lb], f"summed against a dimension that can't shrink ({op})")
        for ref, labels in ((a[0], la), (b[0], lb)):
            if self.is_static(ref):
                self.role(labels, "in", op)
        first = a if not self.is_static(a[0]) else b
        if joined is not None and not self.is_static(first[0]):
            self.limit(op, "zero", [(first[2], first[1], joined)])
