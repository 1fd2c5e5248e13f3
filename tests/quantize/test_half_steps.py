"""Zero between two levels or on one: a Gaussian's best four, the better of both on layers, zeros where they must be."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import lessen
import small
from lessen.codings import Grid, nearest
from lessen.codings.container import Package, from_bytes, to_bytes
from lessen.errors import LessenError
from lessen.models.layer import Layer
from lessen.quantize import HalfSteps, Uniform
from lessen.statistics import Statistics


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def known(rows: int = 32, columns: int = 64) -> tuple[Layer, Statistics]:
    x = draw(4 * columns, columns, seed=1) @ draw(columns, columns, seed=2)
    return Layer("w", "linear", draw(rows, columns)), Statistics((x.T @ x / len(x))[None])


def error(technique: HalfSteps | Uniform, layer: Layer) -> float:
    return float((technique.encode(layer, Statistics()).decode() - layer.matrix).square().mean())


@pytest.mark.parametrize(("bits", "least"), [(2, 0.1188), (3, 0.03744), (4, 0.01154)])
def test_it_has_the_least_error_on_a_gaussian(bits: int, least: float) -> None:
    """Max 1960, table II: evenly spaced levels, as many above zero as below."""
    gaussian = Layer("w", "linear", draw(8, 32_000))
    assert error(HalfSteps(bits), gaussian) == pytest.approx(least, rel=0.012)
    if bits == 2:
        others = [error(Uniform(2, symmetric=s, feedback=False), gaussian) for s in (True, False)]
        assert error(HalfSteps(2), gaussian) < 0.82 * min(others)


def test_each_row_has_its_zero_where_its_values_have_it() -> None:
    levels = torch.randint(-2, 2, (8, 400), generator=torch.Generator().manual_seed(0)).float()
    layer = Layer("w", "linear", levels + 0.5 * (torch.arange(8) < 4)[:, None])
    coding = HalfSteps().encode(layer, Statistics())
    assert (coding.zero_point != 0).flatten().tolist() == [False] * 4 + [True] * 4
    torch.testing.assert_close(coding.decode(), layer.weight)


@pytest.mark.parametrize("per", ["tensor", "channel", 16])
@pytest.mark.parametrize("bits", [2, 3])
def test_it_does_less_harm_than_whole_zero_points_and_feedback_lowers_it(bits: int, per: str | int) -> None:
    layer, statistics = known()
    made = [HalfSteps(bits, per), HalfSteps(bits, per, feedback=False), Uniform(bits, per, symmetric=False)]
    fed, plain, whole = (t.encode(layer, statistics) for t in made)
    assert fed.odd and fed.bits == bits and not bool((fed.codes % 2 == 0).any())
    harm = [statistics.harm(c.decode() - layer.matrix) for c in (fed, plain, whole)]
    assert harm[0] < 0.9 * harm[1] and harm[0] <= harm[2]


def test_what_was_pruned_is_zero_and_so_is_a_dead_row() -> None:
    layer, statistics = known()
    alive = (torch.arange(32) != 3)[:, None]
    layer = replace(layer, weight=layer.weight * alive, mask=draw(32, 64, seed=5) > 0)
    decoded = HalfSteps().encode(layer, statistics).decode()
    assert bool((decoded[~(layer.mask & alive)] == 0).all()) and bool((decoded[0][layer.mask[0]] != 0).any())


def test_a_moved_weight_goes_to_the_nearest_level_and_zeros_stay_if_asked() -> None:
    codes = torch.tensor([[1, 3, 0, -1]] * 2).char()
    coding = Grid(codes, torch.full((2, 1), 0.5), torch.tensor([[0], [1]]).short(), 2, True)
    moved = torch.tensor([[-0.01, 9.0, 0.2, -0.99]] * 2)
    assert nearest(coding, moved).codes.tolist() == [[-1, 3, 1, -1], [1, 3, 1, -1]]
    assert nearest(coding, moved, keep_zeros=True).codes.tolist() == [[-1, 3, 0, -1], [1, 3, 1, -1]]
    ends = nearest(coding, torch.tensor([[-9.0, 1.01, -1.01, 0.99]] * 2))
    assert ends.decode().tolist() == [[-1.5, 1.5, -1.5, 0.5], [-2.0, 1.0, -1.0, 1.0]]


def test_it_comes_back_from_a_file_in_two_bits_a_weight() -> None:
    layer, statistics = known(256, 512)
    coding = HalfSteps().encode(layer, statistics)
    data = to_bytes(Package(codings={"w": coding}))
    again = from_bytes(data).codings["w"]
    assert isinstance(again, Grid) and again.odd and torch.equal(again.decode(), coding.decode())
    assert len(data) < 2.02 / 8 * layer.weight.numel() + 4 * 256 + 600


def test_codes_beyond_its_levels_are_refused() -> None:
    bad = Grid(torch.full((1, 1), 4).char(), torch.ones(1, 1), torch.zeros(1, 1).short(), 2, True)
    with pytest.raises(LessenError, match="codes from 4 to 4 don't fit 2 bits"):
        to_bytes(Package({"w": bad}))


@pytest.mark.parametrize("bad", [{"bits": 1}, {"bits": 5}, {"bits": True}, {"per": "row"}, {"per": 0}])
def test_nonsense_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(LessenError, match="HalfSteps"):
        HalfSteps(**bad)  # type: ignore[arg-type]


def test_groups_must_divide_the_columns() -> None:
    with pytest.raises(LessenError, match="groups of 48") as refused:
        HalfSteps(2, 48).encode(*known())
    assert refused.value.where == "w"


def test_at_two_bits_a_network_loses_less() -> None:
    net, x = small.trained(), small.data(1000, seed=9)[0]

    def lost(technique: HalfSteps | Uniform) -> float:
        with torch.no_grad():
            return float((lessen.apply(net, technique, small.data(512, seed=4))(x) - net(x)).square().mean())

    assert lost(HalfSteps(2)) < 0.9 * min(lost(Uniform(2)), lost(Uniform(2, symmetric=False)))
