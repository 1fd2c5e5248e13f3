"""Fixed tables and fixed point against theory, published numbers and torch's own formats."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from lessen.codings import ScaledCodebook, nearest
from lessen.codings.container import Package, from_bytes, to_bytes
from lessen.errors import LessenError
from lessen.models.layer import Layer
from lessen.quantize import LowFloat, NormalFloat, PowerOfTwo, Uniform
from lessen.quantize.low_float import FORMATS, low_float
from lessen.quantize.normal_float import normal_float
from lessen.quantize.power_of_two import power_of_two
from lessen.share import KMeans, Quantile
from lessen.statistics import Statistics

# Dettmers et al. 2023, appendix E, to the digits printed there
NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
       -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634,
       0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0]  # fmt: skip


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def known(columns: int = 128, rows: int = 24) -> tuple[Layer, Statistics]:
    x = draw(4 * columns, columns) @ (torch.eye(columns) + draw(columns, columns, seed=1) / columns**0.5)
    H = x.T @ x / len(x)
    return Layer("here.weight", "linear", draw(rows, columns, seed=2)), Statistics(H[None], observations=len(x))


def least_error(table: Tensor, steps: Tensor) -> float:
    """The mean squared error of the best of these scales on a Gaussian, by integration."""
    x = torch.linspace(-7, 7, 20_001, dtype=torch.float64)
    p = torch.exp(-x * x / 2) / math.sqrt(2 * math.pi) * (x[1] - x[0])
    table = table.double()
    middles = (table[1:] + table[:-1]) / 2
    return min(float(((x - table[torch.bucketize(x / s, middles)] * s).square() * p).sum()) for s in steps.tolist())


def measured(technique: object) -> float:
    """The error on 40 000 quantiles of a Gaussian: no luck of the draw in it."""
    w = torch.special.ndtri((torch.arange(40_000) + 0.5) / 40_000)[None]
    return float((technique.encode(Layer("w", "linear", w), Statistics()).decode() - w).square().mean())  # type: ignore[attr-defined]


def test_nf4_is_the_published_table() -> None:
    assert torch.allclose(normal_float(4), torch.tensor(NF4), atol=1e-6)


@pytest.mark.parametrize("bits", range(2, 9))
def test_normal_float_has_all_its_levels_and_a_zero(bits: int) -> None:
    table = normal_float(bits)
    assert len(table.unique()) == 1 << bits
    assert table.min() == -1
    assert table.max() == 1
    assert 0 in table.tolist()


@pytest.mark.parametrize(("name", "dtype"), [("e4m3", torch.float8_e4m3fn), ("e5m2", torch.float8_e5m2)])
def test_fp8_values_are_torch_s(name: str, dtype: torch.dtype) -> None:
    every = torch.arange(256).to(torch.uint8).view(dtype).float()
    assert torch.equal(low_float(name), every[torch.isfinite(every)].unique())


def test_fp4_and_fp6_are_those_of_the_microscaling_specification() -> None:
    assert low_float("e2m1").tolist()[7:] == [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    assert (len(low_float("e2m3")), float(low_float("e2m3").max())) == (63, 7.5)
    assert (len(low_float("e3m2")), float(low_float("e3m2").max())) == (63, 28.0)


def test_powers_of_two_are_those_of_the_papers() -> None:
    assert power_of_two(3, 1).tolist() == [-1, -0.5, -0.25, 0, 0.25, 0.5, 1]
    magnitudes = power_of_two(5, 2)[15:].tolist()  # Li et al. 2020: {0, 1, 1/4, 1/16} + {0, 1/2, 1/8, 1/32}
    ours = {a + b for a in (0, 1, 1 / 4, 1 / 16) for b in (0, 1 / 2, 1 / 8, 1 / 32)}
    assert magnitudes == sorted(ours)


@pytest.mark.parametrize(("bits", "terms"), [(b, 1) for b in range(2, 7)] + [(b, 2) for b in range(3, 9)])
def test_no_sum_of_powers_occurs_twice(bits: int, terms: int) -> None:
    assert len(power_of_two(bits, terms)) == (1 << bits) - 1


@pytest.mark.parametrize("name", FORMATS)
def test_low_floats_reach_the_least_error_on_a_gaussian(name: str) -> None:
    top = float(low_float(name).max())
    best = least_error(low_float(name), torch.linspace(1.5, 8, 400) / top)
    assert measured(LowFloat(name, "channel")) == pytest.approx(best, rel=0.01)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6])
def test_normal_floats_reach_the_least_error_on_a_gaussian(bits: int) -> None:
    best = least_error(normal_float(bits), torch.linspace(0.8, 4.5, 600))
    assert measured(NormalFloat(bits, "channel")) == pytest.approx(best, rel=0.01)


@pytest.mark.parametrize(("bits", "terms"), [(2, 1), (3, 1), (4, 1), (3, 2), (4, 2), (5, 2), (6, 2)])
def test_powers_of_two_reach_the_least_error_on_a_gaussian(bits: int, terms: int) -> None:
    best = least_error(power_of_two(bits, terms), torch.exp2(torch.arange(-4.0, 5)))
    assert measured(PowerOfTwo(bits, terms)) == pytest.approx(best, rel=0.01)


def test_sixteen_levels_on_a_gaussian_rank_as_theory_says() -> None:
    """Lloyd-Max 0.009497 (Max 1960) is the bound; then NF4 with its best scale, and one term is the coarsest."""
    error = {t: measured(t) for t in (KMeans(16), NormalFloat(4, "channel"), PowerOfTwo(4))}
    assert error[KMeans(16)] == pytest.approx(0.009497, rel=0.01)
    assert list(error.values()) == sorted(error.values())


def test_one_term_has_a_floor_that_more_bits_do_not_lower() -> None:
    """Between neighbours a factor 2 apart the relative error stays; a second term is what helps."""
    assert measured(PowerOfTwo(6)) > 0.9 * measured(PowerOfTwo(4))
    assert measured(PowerOfTwo(6, 2)) < 0.2 * measured(PowerOfTwo(6))


@pytest.mark.parametrize(("clusters", "optimum"), [(4, 0.1175), (16, 0.009497)])
def test_quantiles_lie_above_lloyd_max_and_use_every_value_alike(clusters: int, optimum: float) -> None:
    w = draw(8, 32_000)
    coding = Quantile(clusters).encode(Layer("w", "linear", w), Statistics())
    share = coding.indices.flatten().bincount(minlength=clusters).double() / w.numel()
    assert optimum < float((coding.decode() - w).square().mean()) < 2.5 * optimum
    assert float(-(share * share.log2()).sum()) > math.log2(clusters) - 0.05


@pytest.mark.parametrize("per", ["tensor", "channel", 32])
@pytest.mark.parametrize("terms", [1, 2])
def test_values_are_exact_powers_of_two_and_so_are_mx_scales(per: str | int, terms: int) -> None:
    layer, statistics = known()
    coding = PowerOfTwo(4, terms, per).encode(layer, statistics)
    assert bool((coding.scale.log2() % 1 == 0).all())
    if terms == 1:
        values = coding.decode().abs()
        assert bool((values[values > 0].log2() % 1 == 0).all())
    mx = LowFloat("e2m1", 32, powers=True).encode(layer, statistics)
    assert bool((mx.scale.log2() % 1 == 0).all())


@pytest.mark.parametrize("per", ["tensor", "channel", 32])
@pytest.mark.parametrize("make", [NormalFloat, LowFloat, PowerOfTwo])
def test_feedback_lowers_the_error_of_the_layer(make: type, per: str | int) -> None:
    layer, statistics = known()
    fed, plain = (
        statistics.harm(make(per=per, feedback=f).encode(layer, statistics).decode() - layer.matrix)
        for f in (True, False)
    )
    assert fed < 0.9 * plain


def test_smaller_groups_are_better_and_normal_levels_beat_even_ones_on_gaussian_groups() -> None:
    layer, _ = known(256, 64)

    def error(technique: object) -> float:
        coding = technique.encode(layer, Statistics())  # type: ignore[attr-defined]
        return float((coding.decode() - layer.matrix).square().mean())

    per = [error(NormalFloat(4, p)) for p in (32, 64, 128, "channel", "tensor")]
    assert per == sorted(per)
    assert error(NormalFloat(4, 64)) < error(Uniform(4, 64, feedback=False))


CODINGS = [NormalFloat(4, 32), LowFloat("e4m3", "channel"), PowerOfTwo(6, 2, "tensor")]


@pytest.mark.parametrize("technique", CODINGS)
def test_it_comes_back_from_a_file_to_the_bit_and_small(technique: object) -> None:
    layer, statistics = known(256, 64)
    coding = technique.encode(layer, statistics)  # type: ignore[attr-defined]
    data = to_bytes(Package(codings={"w": coding}))
    back = from_bytes(data).codings["w"]
    assert isinstance(back, ScaledCodebook)
    assert torch.equal(back.decode(), coding.decode())
    assert (
        len(data)
        < 1.1 * (math.log2(coding.centroids.shape[1]) / 8 * layer.weight.numel()) + 3 * coding.scale.numel() + 1200
    )


@pytest.mark.parametrize("technique", CODINGS)
def test_nearest_gives_back_what_it_decodes_to_and_follows_a_moved_weight(technique: object) -> None:
    layer, statistics = known()
    coding = technique.encode(layer, statistics)  # type: ignore[attr-defined]
    assert torch.equal(nearest(coding, coding.decode()).decode(), coding.decode())
    moved = coding.decode() + 0.3
    again = nearest(coding, moved)
    values = coding.centroids[0] * coding.scale.repeat_interleave(coding.group_size, 1).expand(coding.shape)[..., None]
    assert torch.allclose((again.decode() - moved).abs(), (values - moved[..., None]).abs().amin(2), atol=1e-6)


def test_a_damaged_file_is_refused() -> None:
    index, table, scale = torch.zeros(4, 6, dtype=torch.uint8), torch.ones(1, 2), torch.ones(4, 1)
    bad = [
        (index + 2, table, scale), (index, table.repeat(2, 1), scale), (index, table, torch.ones(4, 4)),
        (index, table, torch.ones(3, 1)), (index, torch.ones(1, 300), scale), (index, torch.ones(2), scale),
    ]  # fmt: skip
    for parts in bad:
        with pytest.raises(LessenError):
            ScaledCodebook(*parts)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (NormalFloat, {"per": "row"}), (NormalFloat, {"bits": 9}), (LowFloat, {"format": "e9m9"}),
        (LowFloat, {"per": 0}), (PowerOfTwo, {"terms": 3}), (PowerOfTwo, {"bits": 7}),
        (PowerOfTwo, {"bits": 2, "terms": 2}), (Quantile, {"per": "row"}), (Quantile, {"clusters": 257}),
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused_by_name(make: type, options: dict[str, object]) -> None:
    with pytest.raises(LessenError, match=make.__name__):
        make(**options)


def test_groups_that_do_not_divide_are_refused_by_name() -> None:
    for technique in (NormalFloat(4, 48), LowFloat(per=48), PowerOfTwo(per=48)):
        with pytest.raises(LessenError, match=r"here\.weight: 128 columns can't be cut into groups of 48"):
            technique.encode(*known())


def test_more_bits_are_better() -> None:
    layer, statistics = known()
    families = [NormalFloat(b, "channel") for b in (2, 3, 4, 6, 8)], [PowerOfTwo(b, 2) for b in (3, 4, 5, 6)]
    for family in families:
        harms = [statistics.harm(t.encode(layer, statistics).decode() - layer.matrix) for t in family]
        assert all(more < 0.95 * less for less, more in itertools.pairwise(harms)), harms
