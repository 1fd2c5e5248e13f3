"""The chooser against brute force and against itself."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lessen.errors import LessenError
from lessen.solve import Candidate, Price, cheapest_within, curve, exact, hull

costs = st.floats(0.5, 100, allow_nan=False)
problem = st.lists(st.lists(st.tuples(costs, costs, costs), min_size=1, max_size=4), min_size=1, max_size=4)


def _items(raw):
    return {f"l{i}": [Candidate(f"l{i}", j, *c) for j, c in enumerate(cs)] for i, cs in enumerate(raw)}


@given(problem, st.floats(0.1, 1.0))
@settings(max_examples=150, deadline=None)
def test_exact_is_brute_force_and_the_curve_is_never_better(raw, share):
    items, price = _items(raw), Price(1.0, 0.5)
    dearest = sum(max(price.of(c) for c in cs) for cs in items.values())
    limit = share * dearest
    feasible = [p for p in itertools.product(*items.values()) if sum(map(price.of, p)) <= limit]
    best = exact(items, price, limit)
    greedy = cheapest_within(items, price, limit)
    if not feasible:
        assert best is None and greedy is None
        return
    assert best is not None
    assert best.harm == pytest.approx(min(sum(c.harm for c in p) for p in feasible))
    assert best.cost <= limit * (1 + 1e-9)
    assert greedy is not None and greedy.harm >= best.harm - 1e-9


@given(problem)
@settings(max_examples=150, deadline=None)
def test_every_point_of_the_curve_is_optimal_at_its_own_cost(raw):
    items, price = _items(raw), Price()
    for solution in curve(items, price):
        best = exact(items, price, solution.cost)
        assert best is not None and solution.harm == pytest.approx(best.harm, rel=1e-6, abs=1e-6)


@given(problem)
@settings(max_examples=100, deadline=None)
def test_the_curve_falls_in_cost_and_rises_in_harm(raw):
    points = curve(_items(raw), Price(0.3, 1.0))
    assert all(a.cost > b.cost and a.harm <= b.harm for a, b in itertools.pairwise(points))


def test_hull_drops_what_is_never_chosen():
    line = [Candidate("a", i, h, b) for i, (h, b) in enumerate([(0, 10), (1, 6), (9, 5.9), (2, 1)])]
    assert [c.choice for c in hull(line, Price())] == [0, 3]


def test_an_item_without_candidates_is_an_error():
    with pytest.raises(LessenError, match="without candidates"):
        curve({"a": []}, Price())
