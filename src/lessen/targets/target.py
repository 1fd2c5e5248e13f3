"""What a target is: where the network will run, what it executes there, and how to ask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import onnx_ir as ir
from torch import Tensor

from ..codings import Coding
from ..models.layer import Layer
from .coded import Coded
from .ranges import Range

Session = Callable[[Sequence[Tensor]], tuple[Tensor, ...]]
Events = list[tuple[bool, float, str]]  # (is a product, seconds, the runtime's name for it), in order of execution


@dataclass(frozen=True)
class Kernels:
    """What the runtime really does, read from the graph that it made of the file.

    Args:
        integer: names of the nodes that compute products in integers.
        floating: names of those that compute them in floating point.
        sparse: names of those that pass over zeros; all of them in `integer` or `floating` as well.
    """

    integer: tuple[str, ...]
    floating: tuple[str, ...]
    sparse: tuple[str, ...] = ()

    @property
    def share(self) -> float:
        """Part of the nodes with products that run in integers."""
        return len(self.integer) / max(len(self.integer) + len(self.floating), 1)


@runtime_checkable
class Target(Protocol):
    """A runtime that a network can be exported to, run in and timed in."""

    @property
    def name(self) -> str:
        """As the user writes it."""
        ...

    @property
    def suffix(self) -> str:
        """Ending of its files, with the dot."""
        ...

    @property
    def likes(self) -> Mapping[str, int]:
        """Multiples that channel counts should have: {"float": 16, "int8": 4}."""
        ...

    @property
    def executes(self) -> Mapping[str, tuple[int, ...]]:
        """Bits of weights that it computes with in integers, by operator kind."""
        ...

    def nbytes(self, layer: Layer, coding: Coding) -> int:
        """Bytes that this coding of the layer's weight takes in the target's file."""
        ...

    def ranges(self, model: ir.Model, coded: Coded, batches: Iterable[Sequence[Any]]) -> dict[str, Range]:
        """The activation ranges that `export` will need, measured on the float graph."""
        ...

    def export(self, model: ir.Model, path: Path, coded: Coded | None, ranges: Mapping[str, Range]) -> Path:
        """Writes the file, whole or not at all; without `coded` the float baseline."""
        ...

    def session(self, path: Path, threads: int = 0) -> Session:
        """The file, loaded: a function from one batch of inputs to the tuple of outputs."""
        ...

    def profile(self, path: Path, inputs: Sequence[Tensor], runs: int) -> Events:
        """What the runtime executes, in order, on one core."""
        ...

    def verify(self, path: Path) -> Kernels:
        """Which nodes run in integers, by the runtime's own account."""
        ...


def typical(runs: Iterable[Sequence[tuple[bool, float, str]]]) -> Events:
    """Of each event the lower quartile of its times: what disturbs makes it longer, and clocks may stand still.

    Events are told apart by their names and, under one name, by their order: a run may leave some out. OpenVINO does
    so with what takes less than the clock tells, and what came after it was taken for its neighbour.
    """
    rows = [list(row) for row in runs]
    times: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        for (_, seconds, _), key in zip(row, _keys(row), strict=True):
            times.setdefault(key, []).append(seconds)
    fullest = max(rows, key=len, default=[])
    return [(product, _quartile(times[key], len(rows)), name)
            for (product, _, name), key in zip(fullest, _keys(fullest), strict=True)]  # fmt: skip


def _keys(row: Sequence[tuple[bool, float, str]]) -> list[tuple[str, int]]:
    """Name of each event, and how many of that name were before it."""
    seen: Counter[str] = Counter()
    found = []
    for _, _, name in row:
        found.append((name, seen[name]))
        seen[name] += 1
    return found


def _quartile(times: list[float], runs: int) -> float:
    """The lower one; a run that left it out took less than any that told: half the least of those."""
    return sorted(times + [min(times) / 2] * (runs - len(times)))[runs // 4]
