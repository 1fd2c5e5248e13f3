"""`Depth` takes the least harmful blocks, one after the other."""

import pytest

from lessen.errors import LessenError
from lessen.prune.depth import Depth


def _harm(gone: tuple[str, ...]) -> float:
    """Blocks a and b do the same work: either can go, both can't."""
    alone = {"a": 1.0, "b": 1.1, "c": 2.0, "c.inner": 0.5}
    return sum(alone[n] for n in gone) + (10.0 if {"a", "b"} <= {*gone} else 0.0)


def test_each_is_chosen_given_those_that_went_before():
    costs = dict.fromkeys(("a", "b", "c"), 1.0)
    assert Depth(2).rank(costs, _harm) == (("a", "c"), 3.0)


def test_a_block_that_swallows_another_replaces_it():
    gone, harm = Depth(2).rank({"a": 1.0, "c": 100.0, "c.inner": 1000.0}, _harm)
    assert gone == ("c",) and harm == 2.0


def test_harm_counts_per_cost():
    assert Depth(1).rank({"a": 1.0, "c": 3.0}, _harm)[0] == ("c",)


@pytest.mark.parametrize("blocks", [0, -1, 1.5, True])
def test_nonsense_is_refused(blocks):
    with pytest.raises(LessenError, match="Depth can't remove"):
        Depth(blocks)


def test_more_blocks_than_there_are_is_an_error_with_their_number():
    with pytest.raises(LessenError, match="only 2 of 3 residual blocks can be removed"):
        Depth(3).rank({"a": 1.0, "c": 1.0}, _harm)


def test_a_harm_that_is_no_number_names_the_block():
    with pytest.raises(LessenError, match="not a number") as error:
        Depth(1).rank({"a": 1.0}, lambda gone: float("nan"))
    assert error.value.where == "a"
