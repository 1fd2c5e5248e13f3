"""Signal and noise at every unit: as it arrives through the whole file, and with nothing but this unit rounded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from ..targets.calibrate import observed
from ..targets.graph import Array
from .restore import Exact, restored, shadowed
from .units import Quantizer, Unit

AT_ONCE = 12  # units whose values are held at the same time, at first
HELD = 2**28  # bytes of values that are then held at the same time
NONE = 400.0  # decibels where there is no noise at all


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise), at most `NONE`; -inf where the noise is no number."""
    if not math.isfinite(noise):
        return -math.inf
    if noise <= 0 or signal <= 0:
        return NONE if noise <= 0 else -NONE
    return max(-NONE, min(NONE, 10 * math.log10(signal / noise)))


@dataclass
class Seen:
    """One rounded input of a unit, over the data, in float.

    Args:
        peak: largest magnitude of each channel.
        low, high: of all values.
        energy, cut: sums of x^2, and of the squared error that clipping alone makes.
        outside, count: values beyond the range, and all of them.
    """

    peak: Array | None = None
    low: float = 0.0
    high: float = 0.0
    energy: float = 0.0
    cut: float = 0.0
    outside: int = 0
    count: int = 0

    def add(self, x: Array, quantizer: Quantizer, axis: int) -> None:
        rest = tuple(i for i in range(x.ndim) if i != axis % x.ndim) if x.ndim else ()
        peak = np.abs(x).max(rest) if x.ndim else np.abs(x).reshape(1)
        self.peak = peak if self.peak is None or self.peak.shape != peak.shape else np.maximum(self.peak, peak)
        self.low, self.high = min(self.low, float(x.min())), max(self.high, float(x.max()))
        wide = x.astype(np.float64)
        over = wide - quantizer.clipped(wide)
        self.energy += float((wide * wide).sum())
        self.cut += float((over * over).sum())
        self.outside += int(np.count_nonzero(over))
        self.count += x.size


@dataclass
class Noise:
    """Sums over the data at one unit's output, for each of its channels.

    A loud channel would hide that the others drown: decibels are of the mean over channels of noise / signal, where a
    channel counts at most 1 (it is lost then).

    Args:
        signal: of the float output, squared.
        arrives: noise with the whole file rounded.
        alone: noise with only this unit rounded.
        weights: noise with only its weights (and bias) rounded.
        moved, weights_moved: sums of the errors behind `alone` and `weights`, with their sign.
        count: values in each channel.
        reads: its rounded inputs.
    """

    count: int = 0
    signal: Array = field(default_factory=lambda: np.zeros(1))
    arrives: Array = field(default_factory=lambda: np.zeros(1))
    alone: Array = field(default_factory=lambda: np.zeros(1))
    weights: Array = field(default_factory=lambda: np.zeros(1))
    moved: Array = field(default_factory=lambda: np.zeros(1))
    weights_moved: Array = field(default_factory=lambda: np.zeros(1))
    reads: dict[int, Seen] = field(default_factory=dict)

    def ratio(self, noise: Array) -> float:
        """Mean over the channels of noise / signal, 0 to 1; not a number where the noise is none."""
        alive = self.signal > 0
        return float(np.minimum(noise[alive] / self.signal[alive], 1).mean()) if alive.any() else 0.0

    @property
    def arrives_db(self) -> float:
        return decibels(1, self.ratio(self.arrives))

    @property
    def alone_db(self) -> float:
        return decibels(1, self.ratio(self.alone))

    @property
    def weights_db(self) -> float:
        return decibels(1, self.ratio(self.weights))


Batches = Sequence[Sequence[Any]]


def measured(model: ir.Model, units: Sequence[Unit], exact: Exact, batches: Batches) -> dict[str, Noise]:
    """The noise at every unit, over the batches.

    Args:
        model: the graph in which the units can be put back to float.
        batches: tuples of inputs; they are run several times, a part of the units each time.
    """
    found = {u.name: Noise(reads={i: Seen() for i in u.reads}) for u in units}
    whole = restored(model, units, exact)
    twins, names = shadowed(model, units, exact)
    start, count = 0, AT_ONCE
    while start < len(units):
        part = units[start : start + count]
        most = _compared(found, part, (whole, model), batches)
        most += _alone(found, part, twins, names, batches)
        start, count = start + count, max(4, min(512, HELD * len(part) // max(most, 1)))
    return found


Graphs = tuple[ir.Model, ir.Model]


def _compared(found: dict[str, Noise], part: Sequence[Unit], graphs: Graphs, batches: Batches) -> int:
    """The noise that arrives; returns the bytes of the values that were held."""
    outputs, most = list(dict.fromkeys(u.output for u in part)), 0
    for wanted, got in zip(*(observed(g, outputs, batches) for g in graphs), strict=True):
        most = max(most, 2 * sum(x.nbytes for x in wanted.values()))
        for u in part:
            gap = wanted[u.output].astype(np.float64) - got[u.output]
            found[u.name].arrives = found[u.name].arrives + _squared(gap, u)
    return most


def _alone(
    found: dict[str, Noise], part: Sequence[Unit], twins: ir.Model, names: dict[str, tuple[str, str]], batches: Batches
) -> int:
    """Each unit's own noise and what it reads; returns the bytes of the values that were held."""
    tensors, most = [n for u in part for n in (u.output, *names[u.name])], 0
    tensors += [q.tensor for u in part for q in u.reads.values()]
    for seen in observed(twins, list(dict.fromkeys(tensors)), batches):
        most = max(most, sum(x.nbytes for x in seen.values()))
        for u in part:
            _add(found[u.name], u, seen, names[u.name])
    return most


def _squared(x: Array, unit: Unit) -> Array:
    """Sum of squares of each channel of a unit's output."""
    return _summed(x * x, unit)


def _summed(x: Array, unit: Unit) -> Array:
    if x.ndim < 2:
        return np.array([float(x.sum())])
    axis = 1 if unit.kind.startswith("Conv") or (x.ndim == 4 and unit.kind not in ("MatMul", "Softmax")) else x.ndim - 1
    return x.sum(tuple(i for i in range(x.ndim) if i != axis))


def _add(noise: Noise, unit: Unit, seen: dict[str, Array], names: tuple[str, str]) -> None:
    exact = seen[unit.output].astype(np.float64)
    signal = _squared(exact, unit)
    noise.count += exact.size // max(signal.size, 1)
    noise.signal = noise.signal + signal
    own, weights = seen[names[0]] - exact, seen[names[1]] - exact
    noise.alone, noise.moved = noise.alone + _squared(own, unit), noise.moved + _summed(own, unit)
    noise.weights, noise.weights_moved = (
        noise.weights + _squared(weights, unit),
        noise.weights_moved + _summed(weights, unit),
    )
    for index, quantizer in unit.reads.items():
        noise.reads[index].add(seen[quantizer.tensor], quantizer, channel_axis(unit, index))


def channel_axis(unit: Unit, index: int) -> int:
    """The axis of an input that counts channels: 1 for pictures, the last for rows of features."""
    return 1 if unit.kind in ("Conv", "ConvTranspose") else -1
