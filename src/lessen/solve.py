"""The chooser: one candidate per item under a budget. It knows candidates and costs, never a technique.

A multiple-choice knapsack (Kellerer, Pferschy, Pisinger 2004, ch. 11): minimise the summed harm while the summed
cost stays below a limit, taking exactly one candidate of each item.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import LessenError


@dataclass(frozen=True)
class Candidate:
    """One way to treat one item (a layer or a group).

    Args:
        item: name of the layer.
        choice: what is chosen, opaque to the solver.
        harm: predicted increase of the loss, at least 0.
        nbytes: exact bytes in the target's file.
        seconds: time of the layer on the target.
    """

    item: str
    choice: Any
    harm: float
    nbytes: float
    seconds: float = 0.0


@dataclass(frozen=True)
class Price:
    """How bytes and seconds are weighed into one cost."""

    per_byte: float = 1.0
    per_second: float = 0.0

    def of(self, candidate: Candidate) -> float:
        return candidate.nbytes * self.per_byte + candidate.seconds * self.per_second


Picks = Mapping[str, Candidate]


@dataclass(frozen=True)
class Solution:
    """One candidate per item, and the sums."""

    picks: Picks
    harm: float
    nbytes: float
    seconds: float
    cost: float

    @classmethod
    def of(cls, picks: Picks, price: Price) -> Solution:
        chosen = list(picks.values())
        return cls(
            dict(picks),
            sum(c.harm for c in chosen),
            sum(c.nbytes for c in chosen),
            sum(c.seconds for c in chosen),
            sum(price.of(c) for c in chosen),
        )


def hull(candidates: Sequence[Candidate], price: Price) -> list[Candidate]:
    """The lower convex hull of (cost, harm): falling cost, rising harm, ever steeper."""
    best: list[Candidate] = []
    for c in sorted(candidates, key=lambda c: (price.of(c), c.harm)):
        if not best or c.harm < best[-1].harm:
            while len(best) > 1 and _slope(best[-2], best[-1], price) >= _slope(best[-1], c, price):
                best.pop()
            best.append(c)
    return best[::-1]


def _slope(cheap: Candidate, dear: Candidate, price: Price) -> float:
    return (dear.harm - cheap.harm) / (price.of(dear) - price.of(cheap))


def curve(items: Mapping[str, Sequence[Candidate]], price: Price) -> list[Solution]:
    """Every solution that a Lagrange multiplier can reach, from the least harm to the least cost.

    Each layer walks down its own convex hull; the step that saves most cost per harm is taken first.
    """
    if not items or any(not c for c in items.values()):
        raise LessenError("an item without candidates can't be solved for")
    hulls = {name: hull(candidates, price) for name, candidates in items.items()}
    at = dict.fromkeys(hulls, 0)
    picks = {name: h[0] for name, h in hulls.items()}
    solutions = [Solution.of(picks, price)]
    # The flattest step (least harm for the cost it saves) is the best bargain.
    heap = [(abs(_slope(h[1], h[0], price)), name) for name, h in hulls.items() if len(h) > 1]
    heapq.heapify(heap)
    while heap:
        _, name = heapq.heappop(heap)
        at[name] += 1
        picks[name] = hulls[name][at[name]]
        solutions.append(_moved(solutions[-1], hulls[name][at[name] - 1], picks, name, price))
        if at[name] + 1 < len(hulls[name]):
            slope = _slope(hulls[name][at[name] + 1], hulls[name][at[name]], price)
            heapq.heappush(heap, (abs(slope), name))
    return solutions


def _moved(last: Solution, old: Candidate, picks: dict[str, Candidate], name: str, price: Price) -> Solution:
    new = picks[name]
    return Solution(
        dict(picks),
        last.harm + new.harm - old.harm,
        last.nbytes + new.nbytes - old.nbytes,
        last.seconds + new.seconds - old.seconds,
        last.cost + price.of(new) - price.of(old),
    )


def cheapest_within(items: Mapping[str, Sequence[Candidate]], price: Price, limit: float) -> Solution | None:
    """The least harm on the Lagrangian curve at a cost of at most `limit`; None if even the cheapest is dearer."""
    return next((s for s in curve(items, price) if s.cost <= limit * (1 + 1e-12)), None)


def exact(items: Mapping[str, Sequence[Candidate]], price: Price, limit: float) -> Solution | None:
    """The true optimum, by merging Pareto frontiers item by item; for small problems (it can grow fast)."""
    frontier: list[tuple[float, float, tuple[Candidate, ...]]] = [(0.0, 0.0, ())]
    for candidates in items.values():
        merged = [
            (cost + price.of(c), harm + c.harm, (*chosen, c))
            for cost, harm, chosen in frontier
            for c in candidates
            if cost + price.of(c) <= limit * (1 + 1e-12)
        ]
        frontier = _pareto(merged)
    if not frontier:
        return None
    best = min(frontier, key=lambda f: (f[1], f[0]))
    return Solution.of(dict(zip(items, best[2], strict=True)), price)


def _pareto(
    points: list[tuple[float, float, tuple[Candidate, ...]]],
) -> list[tuple[float, float, tuple[Candidate, ...]]]:
    kept: list[tuple[float, float, tuple[Candidate, ...]]] = []
    for point in sorted(points, key=lambda p: p[:2]):
        if not kept or point[1] < kept[-1][1]:
            kept.append(point)
    return kept
