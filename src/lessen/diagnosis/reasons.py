"""Why a unit's rounding makes noise: each reason is a type, and says itself in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..targets.graph import Array
from .measure import Noise, Seen
from .normal import OUTPUT
from .state import State
from .units import Quantizer, Unit, Weight

SPREAD = 4.0  # largest over median range of the channels from which one step for all is the trouble
OUTLIER = 5.0  # largest over median peak of the channels that makes an outlier
CUT = 0.3  # share of an input's noise that clipping must make to be the reason
FOREIGN = 0.5  # share of a range beyond its end that no rule would cut on purpose
EMPTY = 0.25  # share of a range that is used, below which it is too wide
TAIL = 1e4  # largest value over the root mean square: a mask or another constant of no size


@dataclass(frozen=True)
class OneStep:
    """One step for all channels whose ranges differ."""

    words: ClassVar[str] = "one step for all channels"
    channels: int
    spread: float
    dead: int

    def __str__(self) -> str:
        lost = f"; {self.dead} of them round to zero" if self.dead else ""
        return f"one step for {self.channels} channels whose ranges differ {_times(self.spread)}{lost}"


@dataclass(frozen=True)
class DeadChannel:
    """Channels that the original uses and the file rounds to nothing."""

    words: ClassVar[str] = "dead channels"
    channels: tuple[int, ...]

    def __str__(self) -> str:
        return f"dead channels: {_few(self.channels)} round to zero in every weight"


@dataclass(frozen=True)
class FewBits:
    """Nothing is odd: the spread of the values needs more levels."""

    words: ClassVar[str] = "too few bits"
    bits: float
    what: str

    def __str__(self) -> str:
        return f"too few bits: {self.bits:.3g} for the {self.what}"


@dataclass(frozen=True)
class ShiftedBias:
    """The bias is not the original's."""

    words: ClassVar[str] = "moved bias"
    largest: float

    def __str__(self) -> str:
        return f"its bias is not the original's: moved by up to {_short(self.largest)}"


@dataclass(frozen=True)
class ShiftedMean:
    """Rounding moved the means of the channels."""

    words: ClassVar[str] = "shifted means"
    share: float

    def __str__(self) -> str:
        return f"shifted means: {_percent(self.share)} of its noise is a constant for each channel"


@dataclass(frozen=True)
class OutlierChannel:
    """A channel of the input needs the whole range and leaves few levels to the others."""

    words: ClassVar[str] = "outlier channel"
    channel: int
    peak: float
    median: float

    def __str__(self) -> str:
        return f"outlier channel {self.channel} of its input reaches {_short(self.peak)}, half of the others stay " \
            f"below {_short(self.median)}"  # fmt: skip


@dataclass(frozen=True)
class SaturatedRange:
    """The range was cut, and what it cuts off matters."""

    words: ClassVar[str] = "saturated range"
    share: float
    seen: tuple[float, float]
    range: tuple[float, float]

    def __str__(self) -> str:
        return f"saturated range: {_percent(self.share)} of its input lies outside of {_interval(self.range)} (seen: " \
            f"{_interval(self.seen)})"  # fmt: skip


@dataclass(frozen=True)
class UnseenRange(SaturatedRange):
    """The data go far beyond what calibration can have seen."""

    words: ClassVar[str] = "unseen range"

    def __str__(self) -> str:
        return f"unseen range: calibrated for {_interval(self.range)}, the data go from {_short(self.seen[0])} to " \
            f"{_short(self.seen[1])}"  # fmt: skip


@dataclass(frozen=True)
class WideRange:
    """Most levels are never used."""

    words: ClassVar[str] = "range too wide"
    used: float
    range: tuple[float, float]

    def __str__(self) -> str:
        return f"range too wide: the data use {_percent(self.used)} of {_interval(self.range)}"


@dataclass(frozen=True)
class HugeConstant:
    """A value of no real size (a mask's minus infinity) takes the whole range."""

    words: ClassVar[str] = "huge value in the range"
    value: float

    def __str__(self) -> str:
        return f"one huge value ({_short(self.value)}, a mask?) takes the whole range of its input"


Reason = (OneStep | DeadChannel | FewBits | ShiftedBias | ShiftedMean | OutlierChannel | SaturatedRange | WideRange
          | HugeConstant)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """A reason and where it sits.

    Args:
        reason: the reason.
        at: index of the unit's input.
        weight: whether that is a weight.
        noise: the energy at the unit's output that it explains, as a share of the unit's own noise.
    """

    reason: Reason
    at: int
    weight: bool
    noise: float


def findings(unit: Unit, noise: Noise, state: State) -> list[Finding]:
    """The reasons of a unit's own noise, the one that makes most of it first."""
    total, rounded = max(noise.ratio(noise.alone), 1e-30), noise.ratio(noise.weights)
    found, shifted, bias = [], 0.0, state.biases.get(unit.name)
    if bias is not None and unit.bias is not None and unit.bias.shape == noise.signal.shape:
        gap = bias.astype(np.float64) - unit.bias
        right = noise.ratio(noise.weights + 2 * gap * noise.weights_moved + noise.count * gap**2)
        if right < 0.5 * rounded:
            shifted = rounded - right
            found.append(Finding(ShiftedBias(float(np.abs(gap).max())), -1, True, min(shifted / total, 1.0)))
        centred = noise.ratio(noise.alone - noise.moved**2 / max(noise.count, 1))
        if centred < 0.5 * total and not shifted:
            found.append(Finding(ShiftedMean(1 - centred / total), -1, True, 1 - centred / total))
    for weight in unit.weights:
        place = (unit.name, weight.index)
        if place in state.weights and rounded > 0:
            left = max(rounded - shifted, 0.0) / total
            found.append(Finding(_of_weight(weight, state.weights[place], state.axes[place]), weight.index, True, left))
    inputs = max(total - rounded, 0.0) / total
    each = _input_shares(unit, noise)
    for index, quantizer in unit.reads.items():
        reason = _of_input(unit, index, quantizer, noise.reads[index])
        found.append(Finding(reason, index, False, inputs * each[index]))
    return sorted(found, key=lambda f: -f.noise)


def _input_shares(unit: Unit, noise: Noise) -> dict[int, float]:
    """How the noise of several inputs divides: by what each of them loses of itself."""
    lost = {}
    for index, quantizer in unit.reads.items():
        seen = noise.reads[index]
        rounding = quantizer.step**2 / 12 * seen.count
        lost[index] = (seen.cut + rounding) / max(seen.energy, 1e-30) + 1e-30
    return {i: v / sum(lost.values()) for i, v in lost.items()}


def _of_weight(weight: Weight, exact: Array, axis: int) -> Reason:
    rows = exact.shape[axis]
    a, b = (np.abs(np.moveaxis(w, axis, 0).reshape(rows, -1)).max(1) for w in (weight.array, exact))
    dead = np.flatnonzero((a == 0) & (b > 0))
    spread = float(b.max() / max(float(np.median(b[b > 0])) if b.any() else 1.0, 1e-30))
    if weight.scales == 1 and rows > 1 and (spread >= SPREAD or len(dead)):
        return OneStep(rows, spread, len(dead))
    if len(dead):
        return DeadChannel(tuple(int(d) for d in dead))
    return FewBits(_used_bits(weight), "weights")


def _used_bits(weight: Weight) -> float:
    """What the levels that are really used are worth: less than the codes' width where a range is half empty."""
    width = float(weight.bits or 8)
    return min(width, round(float(np.log2(weight.levels)), 1)) if weight.levels > 1 else width


def _of_input(unit: Unit, index: int, quantizer: Quantizer, seen: Seen) -> Reason:
    rms = float(np.sqrt(seen.energy / max(seen.count, 1)))
    top = max(-seen.low, seen.high)
    if top > max(TAIL * np.median(seen.peak), 1e9) if seen.peak is not None and seen.peak.size else False:
        return HugeConstant(seen.low if -seen.low > seen.high else seen.high)
    if not quantizer.dynamic:
        width = quantizer.high - quantizer.low
        noise = seen.cut + quantizer.step**2 / 12 * seen.count
        if seen.cut > CUT * noise:
            over = max(seen.high - quantizer.high, quantizer.low - seen.low)
            kind = UnseenRange if over > FOREIGN * width else SaturatedRange
            return kind(seen.outside / max(seen.count, 1), (seen.low, seen.high), (quantizer.low, quantizer.high))
        used = (min(seen.high, quantizer.high) - max(seen.low, quantizer.low)) / max(width, 1e-30)
        if used < EMPTY:
            return WideRange(used, (quantizer.low, quantizer.high))
    outlier = _outlier(seen)
    if outlier is not None:
        return outlier
    what = "outputs of the network" if unit.name.startswith(OUTPUT) else "spread of its input"
    if top > 30 * max(rms, 1e-30):
        what += f" (rms {_short(rms)}, peak {_short(top)})"
    return FewBits(quantizer.bits, what)


def _outlier(seen: Seen) -> OutlierChannel | None:
    if seen.peak is None or np.count_nonzero(seen.peak) < 4:
        return None
    median = float(np.median(seen.peak[seen.peak > 0]))
    channel = int(np.argmax(seen.peak))
    peak = float(seen.peak[channel])
    return OutlierChannel(channel, peak, median) if peak > OUTLIER * max(median, 1e-30) else None


def _times(ratio: float) -> str:
    return f"{ratio:.0f} times" if ratio >= 9.5 else f"{ratio:.1f} times"


def _short(value: float) -> str:
    return f"{value:.3g}"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def _interval(ends: tuple[float, float]) -> str:
    return f"{_short(ends[0])} to {_short(ends[1])}"


def _few(numbers: tuple[int, ...], most: int = 4) -> str:
    rest = f" and {len(numbers) - most} more" if len(numbers) > most else ""
    return ", ".join(map(str, numbers[:most])) + rest
