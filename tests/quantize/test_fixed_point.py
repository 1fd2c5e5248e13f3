"""`FixedPoint`, `QFormat` and the proof that an accumulator is wide enough."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from lessen.codings import Grid
from lessen.errors import LessenError
from lessen.models.layer import Layer
from lessen.quantize import FixedPoint, QFormat, accumulator_bits
from lessen.statistics import Statistics


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


N = 1_000_000


def quantiles() -> Layer:
    return Layer("w", "linear", torch.special.ndtri((torch.arange(N).double() + 0.5) / N).float()[None])


def best_power(bits: int) -> float:
    """Least mean squared error of a grid whose step is a power of two, on a Gaussian, by integration."""
    x = torch.linspace(-7, 7, 20_001, dtype=torch.float64)
    p = torch.exp(-x * x / 2) / math.sqrt(2 * math.pi) * (x[1] - x[0])
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    steps = [2.0**-n for n in range(-2, bits + 2)]
    return min(float(((x - (x / s).round().clamp(low, high) * s).square() * p).sum()) for s in steps)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_on_gaussian_weights_the_error_is_the_least_that_fixed_point_can_have(bits: int) -> None:
    layer = quantiles()
    found = FixedPoint(bits, rounding="nearest").encode(layer, Statistics()).decode()
    assert float((found - layer.matrix).square().mean()) == pytest.approx(best_power(bits), rel=0.01)


def test_rounding_down_costs_four_times_the_error() -> None:
    """Uniform on [0, step): step^2 / 3 against step^2 / 12."""
    layer = quantiles()
    near, down = (
        float(
            (FixedPoint(10, rounding=r, saturate=False).encode(layer, Statistics()).decode() - layer.matrix)
            .square()
            .mean()
        )
        for r in ("nearest", "floor")
    )
    assert down == pytest.approx(4 * near, rel=0.01)


@pytest.mark.parametrize("per", ["tensor", "channel", 16])
@pytest.mark.parametrize("bits", [2, 4, 8, 16])
@pytest.mark.parametrize("rounding", ["feedback", "nearest", "floor"])
def test_steps_are_powers_of_two_and_codes_fit(per: str | int, bits: int, rounding: str) -> None:
    layer = Layer("w", "linear", draw(8, 32) * 3)
    known = Statistics((draw(99, 32).T @ draw(99, 32) / 99)[None], observations=99)
    grid = FixedPoint(bits, per, rounding=rounding).encode(layer, known)
    assert grid.symmetric
    assert grid.scale.shape == {"tensor": (1, 1), "channel": (8, 1), 16: (8, 2)}[per]
    assert bool((grid.scale.log2() % 1 == 0).all())
    assert -(1 << bits - 1) <= int(grid.codes.min()) <= int(grid.codes.max()) < 1 << bits - 1


def test_without_saturation_nothing_is_clipped_and_saturation_is_never_worse() -> None:
    layer = Layer("w", "linear", draw(4, 4000))
    for bits in (3, 4, 6):
        safe = FixedPoint(bits, rounding="nearest", saturate=False).encode(layer, Statistics())
        assert float((safe.decode() - layer.matrix).abs().max()) <= float(safe.scale) * 0.5 + 1e-6
        free = FixedPoint(bits, rounding="nearest").encode(layer, Statistics())
        errors = [float((g.decode() - layer.matrix).square().sum()) for g in (free, safe)]
        assert errors[0] <= errors[1]
    assert float(FixedPoint(3, rounding="nearest").encode(layer, Statistics()).scale) < 2.0


def test_a_given_point_that_overflows_is_an_error_or_saturates() -> None:
    layer = Layer("here.weight", "linear", torch.tensor([[1.5, -0.25]]))
    with pytest.raises(LessenError, match=r"here\.weight: a weight of 1\.5 overflows 8 bits with 7 after the point"):
        FixedPoint(8, fraction=7, saturate=False).encode(layer, Statistics())
    assert FixedPoint(8, fraction=7).encode(layer, Statistics()).decode().tolist() == [[127 / 128, -0.25]]
    assert FixedPoint(8, fraction=6, saturate=False).encode(layer, Statistics()).codes.tolist() == [[96, -16]]


@pytest.mark.parametrize(
    "options", [{"bits": 17}, {"bits": 1}, {"per": "row"}, {"fraction": 0.5}, {"fraction": 99}, {"rounding": "up"}]
)
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(LessenError, match="FixedPoint"):
        FixedPoint(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("low", "high", "bits", "name"),
    [(-1.0, 0.5, 8, "Q0.7"), (-1.0, 1.0, 8, "Q1.6"), (0.0, 5.0, 8, "Q3.4"), (-100.0, 3.0, 16, "Q7.8"),
     (0.0, 0.01, 8, "Q-6.13"), (0.0, 1000.0, 8, "Q10.-3"), (0.0, 0.0, 8, "Q7.0"), (-1.0, 0.9, 32, "Q0.31")],
)  # fmt: skip
def test_the_format_of_a_range(low: float, high: float, bits: int, name: str) -> None:
    form = QFormat.of(low, high, bits)
    assert str(form) == name
    codes = form.codes(torch.tensor([low, high], dtype=torch.float64)) * form.step
    assert float((codes - torch.tensor([low, high])).abs().max()) <= form.step / 2 + 1e-7
    finer = QFormat(bits, form.fraction + 1)
    clipped = finer.codes(torch.tensor([low, high], dtype=torch.float64)) * finer.step
    assert low == high or float((clipped - torch.tensor([low, high])).abs().max()) > 0.4 * finer.step


def test_codes_round_halves_up_or_down_and_saturate() -> None:
    x = torch.tensor([0.5, -0.5, 1.25, 1.5, 200.0, -200.0])
    assert QFormat(8, 0).codes(x).tolist() == [1, 0, 1, 2, 127, -128]
    assert QFormat(8, 0).codes(x, floor=True).tolist() == [0, -1, 1, 1, 127, -128]


@pytest.mark.parametrize("bad", [(math.nan, 1.0), (0.0, math.inf), (2.0, 1.0)])
def test_a_range_without_a_format_is_refused_by_name(bad: tuple[float, float]) -> None:
    with pytest.raises(LessenError, match="conv1: a range from"):
        QFormat.of(*bad, 8, "conv1")


def grid(codes: Tensor, zero: int = 0) -> Grid:
    return Grid(codes.to(torch.int16), torch.ones(len(codes), 1), torch.full((len(codes), 1), zero), 16)


@pytest.mark.parametrize("zero", [0, 3])
def test_the_bound_is_the_worst_of_all_inputs_tried(zero: int) -> None:
    """Every input of three codes in [-2, 1], at every partial sum in every order."""
    codes = torch.tensor([[3, -2, 1], [-4, 0, 2]])
    layer, bias = Layer("w", "linear", codes.float()), torch.tensor([5, -6])
    worst = 0
    for x in itertools.product(range(-2, 2), repeat=3):
        for order in itertools.permutations(range(3)):
            for row, start in zip((codes - zero).tolist(), bias.tolist(), strict=True):
                sums = list(itertools.accumulate((row[j] * x[j] for j in order), initial=start))
                sums += list(itertools.accumulate(row[j] * x[j] for j in order))
                worst = max(worst, *(v.bit_length() if v >= 0 else (-v - 1).bit_length() for v in sums))
    assert accumulator_bits(layer, grid(codes, zero), input_range=(-2, 1), bias=bias) == worst + 1


@pytest.mark.parametrize(("columns", "bits"), [(1, 15 + 1), (2, 17), (512, 25), (4096, 28)])
def test_bits_of_full_range_products(columns: int, bits: int) -> None:
    codes = torch.full((1, columns), -128)
    assert accumulator_bits(Layer("w", "linear", codes.float()), grid(codes)) == bits


def test_what_an_int32_can_not_hold_is_an_error_that_names_the_layer() -> None:
    codes = torch.zeros(3, 8)
    codes[1] = 32767
    layer = Layer("fc2.weight", "linear", codes)
    assert accumulator_bits(layer, grid(codes), input_bits=14) == 32
    with pytest.raises(LessenError, match=r"fc2\.weight: output 1 can reach .*34 bits, more than an int32 holds"):
        accumulator_bits(layer, grid(codes), input_bits=16)
    with pytest.raises(LessenError, match=r"fc2\.weight: input codes from 3 to 1"):
        accumulator_bits(layer, grid(codes), input_range=(3, 1))
