"""The choice among the plans that were measured: the cheapest that holds, on the test part too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..budget import show_bytes
from ..report import Point
from .found import Found, plan_of, treatments_of
from .track import Track, Trial
from .workshop import How

_LOOKS = 3  # at the test part
_RETREAT = 1 / 3  # of the harm of a plan that missed there: what the next one may do at most
_ACCURACY = 0.05  # of a file's cost: as much more it may be for losing nothing instead of all that may be lost


def settled(track: Track) -> Found:
    """The cheapest plan that holds on the validation part, its loss counted; if none does, the one nearest to it.

    Should it miss on the test part, the cheapest is taken that does a third of its harm, at most twice; where none was
    measured, it is looked for on the same curve. The report says how often the test part was looked at.
    """
    missed: list[Trial] = []
    while len(missed) < _LOOKS and (good := _holding(track, missed)):
        tried = _polished(track, min(good, key=lambda t: _dear(track, t)))
        if _test_drop(track, tried) <= track.limit:
            return _found(track, tried, "")
        missed.append(tried)
    if missed:
        best = min(missed, key=lambda t: _test_drop(track, t))
        return _found(track, best, "met on the validation part, missed on the test part")
    return _found(track, min(track.trials, key=lambda t: _far(track, t)), _reason(track))


def _holding(track: Track, missed: Sequence[Trial]) -> list[Trial]:
    """Plans that hold on the validation part and are safer than all that missed on the test part."""
    if missed:
        track.explore_safer(missed[-1], _RETREAT)
    fitting = [t for t in track.trials if track.workshop.small_and_fast(t.measured)]
    return [t for t in fitting if t.measured.bound <= track.limit and all(_safer(t, m) for m in missed)]


def _safer(trial: Trial, missed: Trial) -> bool:
    """Harms of one bench compare: they tell more than the drops of plans that all hold. Else there are only drops."""
    if trial.bench is missed.bench:
        return trial.measured.solution.harm <= _RETREAT * missed.measured.solution.harm
    return trial.measured.bound <= _RETREAT * missed.measured.bound


def _dear(track: Track, trial: Trial) -> float:
    """The cost, and more the more is lost: the last few bytes of a file may be what all its accuracy went for.

    A file of basic-pitch that is 5 % smaller than another loses 0.43 points instead of 0.01; half a point was allowed.
    """
    lost = max(trial.measured.bound, 0.0) / track.limit if track.limit else 0.0
    return track.cost(trial) * (1 + _ACCURACY * lost)


def _far(track: Track, trial: Trial) -> tuple[float, bool, float]:
    over = max(trial.measured.drop - track.limit, 0.0)
    return over, not track.workshop.small_and_fast(trial.measured), track.cost(trial)


def _polished(track: Track, trial: Trial) -> Trial:
    """The plan with its layers coded in turn, where that is better on the validation part."""
    if trial.measured.extra.how != How():
        return trial  # it was tried when the plan lost too much
    better = track.workshop.rounded(trial.bench, trial.exporter, trial.measured)
    if better is trial.measured:
        return trial
    track.trials.append(replace(trial, measured=better))
    return track.trials[-1]


def _test_drop(track: Track, trial: Trial) -> float:
    if track.limit == float("inf"):
        return 0.0
    return track.judge.drop(track.file(trial), track.job.data.test)[1].value


def _reason(track: Track) -> str:
    measured = [t.measured for t in track.trials]
    if not any(track.workshop.small_and_fast(m) for m in measured):
        small = min(m.nbytes for m in measured)
        if small > track.workshop.largest():
            return f"the smallest of {len(measured)} measured plans takes {show_bytes(small)}"
        fast = min(m.extra.milliseconds for m in measured)
        return f"the fastest of {len(measured)} measured plans takes {fast:.3g} ms"
    near = min(m.drop for m in measured)
    return f"the safest of {len(measured)} measured plans still loses {near:.2f} points on the validation part"


def _found(track: Track, chosen: Trial, reason: str) -> Found:
    treatments = treatments_of(chosen.measured.solution)
    how = chosen.measured.extra.how
    plan = plan_of(track.job, chosen.bench, treatments, how.recover, how.in_turn)
    scale = _scale(track.trials)
    return Found(
        chosen.bench, chosen.exporter, track.judge, treatments, plan, track.allowed,
        tuple(_point(t, scale, t is chosen) for t in track.trials), chosen.measured.solution.picks, reason,
        risks=tuple(track.risks), macs_before=track.whole.traced.macs,
    )  # fmt: skip


def _point(trial: Trial, scale: float, chosen: bool) -> Point:
    predicted = (trial.measured.solution.harm + trial.bench.harm) * scale
    return Point(trial.measured.nbytes, predicted, trial.measured.extra.score, trial.measured.drop / 100, chosen=chosen)


def _scale(trials: Sequence[Trial]) -> float:
    """Drop per unit of harm, fitted through the origin to all measured plans."""
    pairs = [(t.measured.solution.harm + t.bench.harm, t.measured.drop / 100) for t in trials]
    square = sum(h * h for h, _ in pairs)
    return max(sum(h * d for h, d in pairs) / square, 0.0) if square else 0.0
