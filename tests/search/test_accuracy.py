"""The bisection along the curve, on curves whose truth is known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lessen.search.accuracy import Measured, best, search
from lessen.solve import Solution


def _curve(n):
    return [Solution({}, harm=10.0 ** (i - n), nbytes=1000 - i, seconds=0, cost=1000.0 - i) for i in range(n)]


def _measurer(points, breaks_at, seen):
    def measure(i, solution):
        assert solution is points[i]
        seen.append(i)
        return Measured(i, solution, float(i >= breaks_at), float(i >= breaks_at), int(solution.nbytes))

    return measure


@given(st.integers(1, 200), st.integers(0, 220))
def test_it_finds_the_cheapest_point_that_holds(n, breaks_at):
    points, seen = _curve(n), []
    tried = search(points, _measurer(points, breaks_at, seen), allowed=0.5, rounds=60)
    found = best(tried, 0.5)
    assert len(seen) == len(set(seen))
    if breaks_at == 0:
        assert found is None
    else:
        assert found is not None and found.index == min(breaks_at, n) - 1


@pytest.mark.parametrize("rounds", [1, 3, 8])
def test_it_never_measures_more_than_allowed(rounds):
    points, seen = _curve(100), []
    search(points, _measurer(points, 37, seen), 0.5, rounds)
    assert len(seen) <= rounds


def test_the_cheapest_end_is_tried_first_and_is_enough():
    points, seen = _curve(50), []
    search(points, _measurer(points, 99, seen), 0.5)
    assert seen == [49]
