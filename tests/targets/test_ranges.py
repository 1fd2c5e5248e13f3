import numpy as np
import pytest

from lessen.errors import LessenError
from lessen.targets.calibrate import chunks, histograms
from lessen.targets.ranges import HALF, Histogram, Range
from targets.small_nets import Residual, exported, noise


def gaussian(n: int = 200_000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(n).astype(np.float32)


def test_zero_is_a_code_exactly():
    for low, high in ((-1.0, 3.0), (0.0, 6.0), (-2.0, 0.0), (-0.001, 5.0)):
        r = Range(low, high)
        assert (r.zero_point - r.zero_point) * r.scale == 0 and 0 <= r.zero_point <= 255
        assert r.scale == pytest.approx((high - low) / 255)


def test_bins_merge_exactly_when_the_range_grows():
    small, large = gaussian(5000) * 0.01, gaussian(5000, 1) * 10
    grown, at_once = Histogram(), Histogram()
    grown.add(small[None])
    grown.add(large[None])
    at_once.add(large[None])
    at_once.add(small[None])
    assert grown.width == at_once.width
    assert np.array_equal(grown.counts, at_once.counts)
    assert grown.counts.sum() == 10000


def test_mse_range_of_a_gaussian_is_the_known_optimum():
    # Clipping of an 8-bit uniform quantizer on N(0, 1): about 3.92 sigma (Banner et al. 2019, table 1)
    h = Histogram()
    h.add(gaussian(2_000_000).reshape(250, -1))
    r = h.range("mse")
    assert 3.6 < r.high < 4.3 and 3.6 < -r.low < 4.3


def test_mse_beats_minmax_with_an_outlier_and_percentile_cuts_it():
    x = gaussian()
    x[0] = 60
    h = Histogram()
    h.add(x.reshape(25, -1))

    def error(r: Range) -> float:
        codes = np.clip(np.round(x / r.scale) + r.zero_point, 0, 255)
        return float(np.square((codes - r.zero_point) * r.scale - x)[1:].mean())

    assert h.range("minmax").high == 60
    assert h.range("percentile", 99.9).high < 10
    assert error(h.range("percentile")) < error(h.range("minmax"))


def test_relu_range_starts_at_zero_and_a_constant_zero_has_one():
    h = Histogram()
    h.add(np.maximum(gaussian(), 0)[None])
    assert h.range().low == 0 and h.range().zero_point == 0
    empty = Histogram()
    empty.add(np.zeros((2, 8), np.float32))
    assert empty.range().scale > 0 and empty.range().zero_point == 0


def test_memory_of_a_histogram_does_not_grow():
    h = Histogram()
    for i in range(3):
        h.add(gaussian(1000, i)[None])
    assert h.counts.shape == (2 * HALF,)


def test_chunks_fill_the_last_one_only_for_a_fixed_batch():
    x = np.arange(10, dtype=np.float32)[:, None]
    assert [len(c[0]) for c in chunks([(x,)], None)] == [4, 4, 2]
    fixed = [c[0][:, 0].tolist() for c in chunks([(x,)], 3)]
    assert fixed[-1] == [9, 9, 9] and sum(len(c) for c in fixed) == 12


def test_calibration_is_deterministic_and_touches_no_global_seed(global_seeds_untouched):
    x = noise(6, 3, 32, 32)
    graph = exported(Residual, x)[2]
    names = [*[v.name for n in graph.graph for v in n.outputs][:4], graph.graph.inputs[0].name]
    first, again = (histograms(graph, names, [(x,), (x * 2,)]) for _ in range(2))
    for n in names:
        assert np.array_equal(first[n].counts, again[n].counts)
    assert first[names[-1]].high == pytest.approx(float(x.max()) * 2)


def test_no_samples_and_not_a_number_are_errors():
    x = noise(2, 3, 32, 32)
    graph = exported(Residual, x)[2]
    name = graph.graph.inputs[0].name
    with pytest.raises(LessenError, match="no calibration samples"):
        histograms(graph, [name], [])
    x[0, 0, 0, 0] = float("nan")
    with pytest.raises(LessenError, match="NaN"):
        histograms(graph, [name], [(x,)])
