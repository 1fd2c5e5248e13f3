"""The same plan run otherwise: weights as they are, more layers on integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..solve import Candidate, Price, Solution


def on_integers(solution: Solution, items: Mapping[str, Sequence[Candidate]], price: Price) -> Solution | None:
    """Every layer whose weight is rounded computes in integers where it can; None where that changes nothing.

    A layer alone may be faster in float and the network be slower for it: values go from codes to floats and back.
    """
    picks = {name: _integer(pick, items[name]) for name, pick in solution.picks.items()}
    return None if picks == dict(solution.picks) else Solution.of(picks, price)


def _integer(pick: Candidate, candidates: Sequence[Candidate]) -> Candidate:
    """The candidate that holds the weight the same way and reads rounded inputs; itself, if it does."""
    if pick.choice.activations:
        return pick
    same = (c for c in candidates if c.choice.technique == pick.choice.technique and c.choice.activations)
    return next(same, pick) if pick.choice.technique is not None else pick


def timed(solution: Solution, seconds: float, price: Price) -> Solution:
    """The solution with the time that was measured in place of its layers' sum."""
    return replace(solution, seconds=seconds, cost=solution.nbytes * price.per_byte + seconds * price.per_second)
