"""Where to cut the range of an activation: a streaming histogram and three rules."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from .graph import Array

HALF = 2048  # bins on each side of zero
SAMPLES = 8192  # values looked at for each sample of the batch
LEVELS = 255

Rule = Literal["mse", "minmax", "percentile"]


@dataclass(frozen=True)
class Range:
    """The interval that unsigned 8-bit codes cover; zero is one of the codes exactly."""

    low: float
    high: float

    @property
    def scale(self) -> float:
        return max((self.high - self.low) / LEVELS, 1e-12)

    @property
    def zero_point(self) -> int:
        return int(np.clip(round(-self.low / self.scale), 0, LEVELS))

    def joined(self, other: Range) -> Range:
        return Range(min(self.low, other.low), max(self.high, other.high))


@dataclass
class Histogram:
    """Counts in bins whose width is a power of two, so that a wider range merges bins exactly.

    Minimum and maximum see every value; the bins see an evenly spaced part, the same one in every run.
    """

    low: float = 0.0
    high: float = 0.0
    width: float = 2.0**-40
    zeros: int = 0
    counts: Array = field(default_factory=lambda: np.zeros(2 * HALF, np.int64))

    def add(self, values: Array) -> None:
        """Counts one batch [samples, ...]."""
        flat = values.reshape(-1)
        if not flat.size:
            return
        self.low = float(np.minimum(self.low, flat.min()))  # keeps NaN, which min() would drop
        self.high = float(np.maximum(self.high, flat.max()))
        self._widen(max(-self.low, self.high))
        step = flat.size // (SAMPLES * max(values.shape[0] if values.ndim else 1, 1)) | 1  # odd: meets every channel
        part = flat[::step]
        if not math.isfinite(self.high - self.low):
            return
        index = np.floor(part * np.float32(1 / self.width)).astype(np.int32) + HALF
        self.counts += np.bincount(np.clip(index, 0, 2 * HALF - 1), minlength=2 * HALF)
        self.zeros += int(part.size - np.count_nonzero(part))

    def _widen(self, largest: float) -> None:
        if not largest > self.width * HALF or not math.isfinite(largest):
            return
        shift = math.ceil(math.log2(largest / (self.width * HALF)))
        index = (np.arange(-HALF, HALF) >> min(shift, 30)) + HALF
        self.counts = np.bincount(index, weights=self.counts, minlength=2 * HALF).astype(np.int64)
        self.width *= 2.0**shift

    @property
    def centers(self) -> Array:
        return (np.arange(-HALF, HALF) + 0.5) * self.width

    def range(self, rule: Rule = "mse", percentile: float = 99.99) -> Range:
        """The interval to quantize."""
        full = Range(min(self.low, 0.0), max(self.high, 0.0))
        if rule == "minmax" or full.high == full.low or not self.counts.any():
            return full
        return percentile_range(self, full, percentile) if rule == "percentile" else mse_range(self, full)


def percentile_range(histogram: Histogram, full: Range, percentile: float) -> Range:
    """Leaves out (100 - percentile) % of the values, half of them on each side."""
    tail = (1 - percentile / 100) / 2 * histogram.counts.sum()
    cumulated = np.cumsum(histogram.counts)
    below = np.searchsorted(cumulated, tail, "right")
    above = np.searchsorted(cumulated, cumulated[-1] - tail, "left")
    low, high = (below - HALF) * histogram.width, (above - HALF + 1) * histogram.width
    return Range(min(max(low, full.low), 0.0), max(min(high, full.high), 0.0))


def mse_range(histogram: Histogram, full: Range) -> Range:
    """The interval of least squared error: rounding noise (step^2 / 12) inside, clipping outside.

    Values that are exactly zero have a code of their own and no noise. The two ends are searched in turn.
    """
    part = histogram.counts.nonzero()[0]
    x, p = histogram.centers[part], histogram.counts[part].astype(np.float64)
    low, high = full.low, full.high
    fractions = np.concatenate([np.linspace(1, 0.5, 51), np.geomspace(0.49, 0.005, 60)])
    for _ in range(2):
        high = _best_end(x, p, histogram.zeros, low, high, full.high * fractions)
        low = -_best_end(-x[::-1], p[::-1], histogram.zeros, -high, -low, -full.low * fractions)
    return Range(low, high)


def _best_end(x: Array, p: Array, zeros: int, low: float, high: float, ends: Array) -> float:
    """The best upper end among `ends` when the lower end stays at `low`. x ascending."""
    if ends[0] <= 0:
        return high
    # moments of what lies above each end, by cumulated sums from the right
    m0, m1, m2 = (np.concatenate([np.cumsum((p * x**k)[::-1])[::-1], [0.0]]) for k in range(3))
    at = np.searchsorted(x, ends, "right")
    clipped = m2[at] - 2 * ends * m1[at] + ends**2 * m0[at]
    inside = np.maximum(m0[0] - zeros - m0[at], 0)
    error = inside * ((ends - low) / LEVELS) ** 2 / 12 + clipped
    return float(ends[int(np.argmin(error))])
