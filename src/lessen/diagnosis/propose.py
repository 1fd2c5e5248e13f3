"""From reasons to mends, the cheapest first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .measure import Noise
from .mends import (
    KINDS,
    EightBits,
    Equalize,
    InFloat,
    MeanCorrection,
    Mend,
    NewRange,
    OriginalBias,
    PerChannel,
    Smooth,
    seams,
    smoothable,
)
from .reasons import (
    DeadChannel,
    FewBits,
    Finding,
    OneStep,
    OutlierChannel,
    SaturatedRange,
    ShiftedBias,
    ShiftedMean,
    WideRange,
)
from .state import State
from .units import Unit

FULL = 7.8  # bits of a weight that uses the levels that eight of them give
MATTERS = 0.15  # least share of a unit's own noise that a reason must explain to be worth a mend


def mends_of(unit: Unit, noise: Noise, found: Sequence[Finding], state: State) -> list[Mend]:
    """What may help this unit, from what costs nothing to what costs its speed."""
    made: list[Mend] = []
    for finding in (f for f in found if f.noise >= MATTERS):
        mend = _mend(unit, noise, finding, state)
        if mend is not None and mend not in made:
            made.append(mend)
    return [*sorted(made, key=lambda m: ORDER.index(type(m))), InFloat((unit.name,))]


ORDER: tuple[type, ...] = (OriginalBias, PerChannel, NewRange, Equalize, Smooth, MeanCorrection, EightBits, InFloat)
DEAR = (EightBits, InFloat)  # cost bytes or time: one layer after the other, the one that pays most first


def _mend(unit: Unit, noise: Noise, finding: Finding, state: State) -> Mend | None:
    name, reason = (unit.name,), finding.reason
    match reason:
        case ShiftedBias():
            return OriginalBias(name)
        case ShiftedMean():
            return MeanCorrection(name)
        case OneStep() | DeadChannel() if unit.kind in KINDS:
            return PerChannel(name)
        case FewBits() if finding.weight and unit.kind in KINDS:
            if any(w.bits < 8 for w in unit.weights):
                return EightBits(name)
            return PerChannel(name) if any(w.scales == 1 for w in unit.weights) or reason.bits < FULL else None
        case SaturatedRange() | WideRange():
            return NewRange(name)
        case OutlierChannel() if any(second.name == unit.name for _, second, _ in seams(state)):
            return Equalize(name)
        case OutlierChannel() if smoothable(unit):
            return Smooth(name, (_peak(noise, finding.at),))
    return None


def _peak(noise: Noise, at: int) -> tuple[float, ...]:
    peak = noise.reads[at].peak
    return () if peak is None else tuple(float(p) for p in peak)


def dear(unit: Unit) -> Mend:
    """What is left for a layer when nothing cheap helps: 8 bits where it has fewer, else float."""
    few = unit.kind in KINDS and any(w.bits < 8 for w in unit.weights)
    return EightBits((unit.name,)) if few else InFloat((unit.name,))


def together(mends: Iterable[Mend]) -> list[Mend]:
    """Mends of one kind as one mend of all their units; those that cost speed stay apart. Cheapest first."""
    kinds: dict[type, list[Mend]] = {}
    for mend in mends:
        kinds.setdefault(type(mend), []).append(mend)
    made: list[Mend] = []
    for kind in ORDER:
        if kind in kinds and kind not in DEAR:
            made.append(_joined(kinds[kind]))
    return made


def _joined(mends: Sequence[Mend]) -> Mend:
    units = tuple(dict.fromkeys(u for m in mends for u in m.units))
    if isinstance(mends[0], Smooth):
        peaks: Mapping[str, tuple[float, ...]] = {m.units[0]: m.peaks[0] for m in mends if isinstance(m, Smooth)}
        return Smooth(units, tuple(peaks[u] for u in units))
    return type(mends[0])(units)  # type: ignore[call-arg]
