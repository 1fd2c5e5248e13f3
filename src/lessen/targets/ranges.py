"""The interval of an activation that codes cover, and the streaming histogram that it is found from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from .graph import Array

HALF = 2048  # bins on each side of zero
SAMPLES = 8192  # values looked at for each sample of the batch
LEVELS = 255
MIDDLE = 128  # the code of zero in a centered range
MOMENTUM = 0.9  # of the moving average: a batch weighs a tenth

Rule = Literal["mse", "weighted", "minmax", "average", "percentile", "entropy"]


@dataclass(frozen=True)
class Range:
    """The interval that unsigned 8-bit codes cover; zero is one of the codes exactly.

    Args:
        live: linear layers find the interval anew in every batch, where the runtime can (dynamic quantization).
    """

    low: float
    high: float
    live: bool = False

    @property
    def scale(self) -> float:
        return max((self.high - self.low) / LEVELS, 1e-12)

    @property
    def zero_point(self) -> int:
        return int(np.clip(round(-self.low / self.scale), 0, LEVELS))

    @property
    def empty(self) -> bool:
        """Nothing but zeros was seen: no telling how far the values reach."""
        return not self.high > self.low

    @property
    def centered(self) -> Range:
        """The same with zero in the middle, if anything lies below it: signed codes then need no offset."""
        reach = max(-self.low, self.high)
        return replace(self, low=-reach * MIDDLE / (LEVELS - MIDDLE), high=reach) if self.low < 0 else self

    def joined(self, other: Range) -> Range:
        return Range(min(self.low, other.low), max(self.high, other.high))


@dataclass(frozen=True, eq=False)
class Importance:
    """How much a squared error in each channel of a tensor harms: sum_r G_r w_rc^2 over what reads it.

    Args:
        axis: of the channels.
        channels: float64 [channels], their mean 1.
    """

    axis: int
    channels: Array

    def of_every(self, shape: tuple[int, ...], step: int) -> Array:
        """The weights of every step-th value of a tensor of this shape, in its order."""
        inner = math.prod(shape[self.axis % len(shape) + 1 :])
        index = np.arange(0, math.prod(shape), step) // inner % len(self.channels)
        return self.channels[index]


def _bins() -> Array:
    return np.zeros(2 * HALF)


@dataclass
class Histogram:
    """Counts in bins whose width is a power of two, so that a wider range merges bins exactly.

    Minimum and maximum see every value; the bins see an evenly spaced part, the same one in every run.

    Args:
        importance: of the tensor's channels; None counts all alike.
        average: moving average of each batch's least and largest value.
        spread: sum over the batches of (largest - least)^2, each times its number of values.
        seen: number of all values.
    """

    low: float = 0.0
    high: float = 0.0
    width: float = 2.0**-40
    zeros: float = 0
    counts: Array = field(default_factory=lambda: np.zeros(2 * HALF, np.int64))
    importance: Importance | None = None
    weights: Array = field(default_factory=_bins)
    weight_of_zeros: float = 0.0
    average: tuple[float, float] | None = None
    spread: float = 0.0
    seen: int = 0

    def add(self, values: Array) -> None:
        """Counts one batch [samples, ...]."""
        flat = values.reshape(-1)
        if not flat.size:
            return
        least, largest = flat.min(), flat.max()
        self.low = float(np.minimum(self.low, least))  # keeps NaN, which min() would drop
        self.high = float(np.maximum(self.high, largest))
        self._average(float(least), float(largest))
        self.spread += flat.size * (max(float(largest), 0.0) - min(float(least), 0.0)) ** 2
        self.seen += flat.size
        self._widen(max(-self.low, self.high))
        step = flat.size // (SAMPLES * max(values.shape[0] if values.ndim else 1, 1)) | 1  # odd: meets every channel
        part = flat[::step]
        if not math.isfinite(self.high - self.low):
            return
        index = np.floor(part * np.float32(1 / self.width)).astype(np.int32) + HALF
        index = np.clip(index, 0, 2 * HALF - 1)
        self.counts += np.bincount(index, minlength=2 * HALF)
        self.zeros += int(part.size - np.count_nonzero(part))
        if self.importance is not None and values.ndim > 1:
            each = self.importance.of_every(values.shape, step)
            self.weights += np.bincount(index, weights=each, minlength=2 * HALF)
            self.weight_of_zeros += float(each[part == 0].sum())

    def _average(self, least: float, largest: float) -> None:
        if self.average is None:
            self.average = (least, largest)
        before = self.average
        self.average = tuple(MOMENTUM * a + (1 - MOMENTUM) * b for a, b in zip(before, (least, largest), strict=True))  # type: ignore[assignment]

    def _widen(self, largest: float) -> None:
        if not largest > self.width * HALF or not math.isfinite(largest):
            return
        shift = math.ceil(math.log2(largest / (self.width * HALF)))
        index = (np.arange(-HALF, HALF) >> min(shift, 30)) + HALF
        self.counts = np.bincount(index, weights=self.counts, minlength=2 * HALF).astype(np.int64)
        self.weights = np.bincount(index, weights=self.weights, minlength=2 * HALF)
        self.width *= 2.0**shift

    @property
    def centers(self) -> Array:
        return (np.arange(-HALF, HALF) + 0.5) * self.width

    @property
    def full(self) -> Range:
        """All that was seen, and zero."""
        return Range(min(self.low, 0.0), max(self.high, 0.0))

    def range(self, rule: Rule = "mse", percentile: float = 99.99) -> Range:
        """The interval to quantize."""
        from . import clipping

        if self.full.empty or not self.counts.any():
            return self.full
        return clipping.range_of(self, rule, percentile)
