"""`Uniform` against theory and against a plain GPTQ."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lessen.errors import LessenError
from lessen.models.layer import Layer
from lessen.quantize import Uniform
from lessen.statistics import Statistics


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def best_grid(bits: int) -> float:
    """Least mean squared error of levels (k - zero) * step, k integer, on a Gaussian: by integration."""
    x = torch.linspace(-7, 7, 20_001, dtype=torch.float64)
    p = torch.exp(-x * x / 2) / math.sqrt(2 * math.pi) * (x[1] - x[0])
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    steps = torch.linspace(0.3, 2.2, 500, dtype=torch.float64) * 4 / (1 << bits)
    return min(float(((x - (x / s).round().clamp(low, high) * s).square() * p).sum()) for s in steps.tolist())


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6])
def test_on_gaussian_weights_the_error_is_the_least_that_such_a_grid_can_have(bits: int) -> None:
    w = draw(8, 30_000)
    coding = Uniform(bits, feedback=False).encode(Layer("w", "linear", w), Statistics())
    assert float((coding.decode() - w).square().mean()) == pytest.approx(best_grid(bits), rel=0.01)


def test_the_least_error_is_close_to_the_published_optimum_of_uniform_quantizers() -> None:
    """Max (1960), table II: 0.01154 at 16 levels; a grid that holds zero has them off centre by half a step."""
    assert 0.01154 < best_grid(4) < 1.06 * 0.01154


def problem(rows: int, columns: int, seed: int = 0) -> tuple[Layer, Statistics, Tensor]:
    mix = torch.eye(columns) + 2 * draw(columns, columns, seed=seed) / columns**0.5
    x = draw(3 * columns, columns, seed=seed + 1) @ mix * (0.7 * draw(columns, seed=seed + 2)).exp()
    H = x.T @ x / len(x)
    return Layer("w", "linear", draw(rows, columns, seed=seed + 3)), Statistics(H=H[None], observations=len(x)), H


def gptq(W: Tensor, H: Tensor, scale: Tensor, bits: int, act_order: bool) -> Tensor:
    """The published algorithm (Frantar et al. 2022, algorithm 1) in float64, with 1 % dampening."""
    W, H = W.double().clone(), H.double().clone()
    order = H.diagonal().argsort(descending=True) if act_order else torch.arange(len(H))
    W, H = W[:, order], H[order][:, order]
    H.diagonal().add_(0.01 * H.diagonal().mean())
    U = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(H)), upper=True)
    Q = torch.zeros_like(W)
    for j in range(W.shape[1]):
        Q[:, j] = (W[:, j] / scale).round().clamp(-(1 << bits - 1), (1 << bits - 1) - 1) * scale
        W[:, j + 1 :] -= ((W[:, j] - Q[:, j]) / U[j, j])[:, None] * U[j, j + 1 :]
    return Q[:, order.argsort()]


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8])
@pytest.mark.parametrize("seed", [0, 10])
def test_the_layer_s_error_is_at_most_that_of_gptq(bits: int, seed: int) -> None:
    """With the better of its column orders, and the better of min-max and least-squares steps."""
    layer, known, H = problem(48, 160, seed)
    ours = known.harm(Uniform(bits).encode(layer, known).decode() - layer.matrix)
    nearest = Uniform(bits, feedback=False).encode(layer, known)
    least = layer.matrix.abs().amax(1).double() / ((1 << bits - 1) - 1)
    theirs = [
        known.harm((gptq(layer.matrix, H, s, bits, order) - layer.matrix).float())
        for s in (nearest.scale[:, 0].double(), least)
        for order in (False, True)
    ]
    assert ours <= min(theirs)
    assert ours < 0.5 * known.harm(nearest.decode() - layer.matrix)


@pytest.mark.parametrize("per", ["tensor", "channel", 32])
@pytest.mark.parametrize("symmetric", [True, False])
def test_feedback_is_never_worse_than_rounding_to_nearest(per: str | int, symmetric: bool) -> None:
    layer, known, _ = problem(24, 96)
    for bits in (2, 4, 8):
        plain = Uniform(bits, per, symmetric, feedback=False).encode(layer, known)
        fed = Uniform(bits, per, symmetric).encode(layer, known)
        assert known.harm(fed.decode() - layer.matrix) <= known.harm(plain.decode() - layer.matrix)
        assert fed.scale.shape == plain.scale.shape == {"tensor": (1, 1), "channel": (24, 1), 32: (24, 3)}[per]
        assert fed.symmetric or not symmetric


def test_an_affine_grid_suits_weights_that_lie_on_one_side() -> None:
    layer = Layer("w", "linear", draw(16, 64).abs() + 0.5)
    errors = [
        float((Uniform(4, symmetric=s).encode(layer, Statistics()).decode() - layer.matrix).square().mean())
        for s in (True, False)
    ]
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("bits", range(2, 17))
def test_codes_stay_in_their_range(bits: int) -> None:
    layer, known, _ = problem(8, 32)
    for symmetric in (True, False):
        grid = Uniform(bits, symmetric=symmetric).encode(layer, known)
        assert grid.bits == bits
        assert grid.codes.dtype == (torch.int8 if bits <= 8 else torch.int16)
        assert -(1 << bits - 1) <= int(grid.codes.min()) <= int(grid.codes.max()) < 1 << bits - 1
        assert bool((grid.scale > 0).all())


def test_groups_that_do_not_divide_are_refused_by_name() -> None:
    with pytest.raises(LessenError, match=r"w: 30 columns can't be cut into groups of 32"):
        Uniform(4, 32).encode(Layer("w", "linear", draw(4, 30)), Statistics())


@pytest.mark.parametrize(
    "options", [{"per": "row"}, {"per": 0}, {"per": -32}, {"bits": 17}, {"bits": 4.0}, {"sweeps": -1}]
)
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(LessenError, match="Uniform"):
        Uniform(**options)


def test_where_it_falls_back_it_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "lessen")
    hopeless = Statistics(H=torch.full((1, 8, 8), float("nan")))
    layer = Layer("here.weight", "linear", draw(4, 8))
    Uniform(4).encode(layer, hopeless)
    assert "here.weight" in caplog.text
    assert "singular" in caplog.text


@pytest.mark.parametrize("technique", [Uniform(8), Uniform(4, 16), Uniform(3, "tensor"), Uniform(4, symmetric=False)])
def test_large_layers_are_rounded_a_part_of_the_rows_at_a_time(technique: Uniform, monkeypatch) -> None:
    layer, statistics, _ = problem(70, 48)
    whole = technique.encode(layer, statistics)
    monkeypatch.setattr("lessen.statistics.problem._MANY", 48 * 16)
    parts = technique.encode(layer, statistics)
    assert torch.equal(parts.codes, whole.codes) and torch.equal(parts.zero_point, whole.zero_point)
    torch.testing.assert_close(parts.scale, whole.scale, rtol=1e-5, atol=0)
