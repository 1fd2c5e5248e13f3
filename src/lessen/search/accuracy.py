"""The outer accuracy loop: bisection along the solver's curve, each step measured on the validation part."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..solve import Solution


@dataclass(frozen=True, eq=False)
class Measured:
    """One plan that was really carried out and measured.

    Args:
        index: its place on the curve.
        solution: what the solver predicted.
        drop: points lost on the validation part.
        bound: the drop that is promised on (measured, plus a margin for chance).
        nbytes: bytes of its artifact.
        extra: whatever the measurer wants to keep (the score, the path).
    """

    index: int
    solution: Solution
    drop: float
    bound: float
    nbytes: int
    extra: Any = None


Measure = Callable[[int, Solution], Measured]


def search(points: Sequence[Solution], measure: Measure, allowed: float, rounds: int = 8) -> list[Measured]:
    """Looks for the cheapest point of the curve whose measured bound is at most `allowed`.

    Harm rises along `points`. The cheapest end is tried first, then the interval between the best point that holds
    and the cheapest that does not is halved, by harm on a logarithmic scale: that is where the drop changes.
    Returns all that was measured, in order of trial. At most `rounds` points are measured.
    """
    tried: dict[int, Measured] = {}

    def holds(i: int) -> bool:
        if i not in tried:
            tried[i] = measure(i, points[i])
        return tried[i].bound <= allowed

    good, bad = -1, len(points) - 1
    if holds(bad):
        return list(tried.values())
    while bad - good > 1 and len(tried) < rounds:
        middle = _middle(points, good, bad)
        if holds(middle):
            good = middle
        else:
            bad = middle
    return list(tried.values())


def _middle(points: Sequence[Solution], good: int, bad: int) -> int:
    """The inner point whose harm is nearest to the geometric mean of the ends."""
    inner = range(good + 1, bad)
    floor = min((p.harm for p in points[good + 1 : bad + 1] if p.harm > 0), default=1.0)  # a curve may begin at 0
    logs = {i: math.log(max(points[i].harm, floor)) for i in inner}
    low = math.log(max(points[good].harm if good >= 0 else floor, floor))
    target = (low + math.log(max(points[bad].harm, floor))) / 2
    return min(inner, key=lambda i: abs(logs[i] - target))


def best(measured: Sequence[Measured], allowed: float) -> Measured | None:
    """The cheapest measured point that holds; None if none does."""
    return min((m for m in measured if m.bound <= allowed), key=lambda m: m.solution.cost, default=None)
