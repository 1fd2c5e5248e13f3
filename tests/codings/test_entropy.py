"""The entropy coder: without loss, near the entropy, bounded on hostile input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lessen.codings import Dense
from lessen.codings.entropy import (
    coded_size,
    decode_array,
    decode_tensor,
    encode_array,
    encode_tensor,
    estimated_size,
    rans,
)
from lessen.codings.entropy.symbols import BY_CONTEXT, ONE_TABLE
from lessen.errors import LessenError

from .packages import generator, grid

TYPES = [np.dtype(t) for t in "? i1 u1 i2 u2 i4 u4 i8 u8 f2 f4 f8".split()]


def entropy(values: np.ndarray) -> float:
    """Order-0 entropy in bytes."""
    counts = np.unique(values, return_counts=True)[1]
    return float(-(counts * np.log2(counts / values.size)).sum() / 8)


def quantized_normal(n: int, sigma: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.clip(np.rint(rng.normal(size=n) * sigma), -128, 127).astype(np.int8)


def check(array: np.ndarray) -> bytes:
    data = encode_array(array)
    back = decode_array(data, array.dtype, array.shape)
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()
    return data


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_round_trip_to_the_bit(dtype: np.dtype, data: st.DataObject) -> None:
    check(data.draw(hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=40))))


@pytest.mark.parametrize("sigma", [40, 7, 2, 0.7, 0.2])
@pytest.mark.parametrize("n", [10_000, 300_000])
def test_near_the_entropy(n: int, sigma: float) -> None:
    values = quantized_normal(n, sigma)
    assert len(check(values)) <= (1.0025 if n < 100_000 else 1.0012) * entropy(values) + 40


@pytest.mark.parametrize("density", [0.5, 0.1, 0.01])
def test_masks_cost_their_entropy(density: float) -> None:
    mask = np.random.default_rng(0).random(400_000) < density
    assert len(check(mask)) <= 1.005 * entropy(mask) + 20


def test_n_of_m_masks_cost_their_patterns() -> None:
    rng = np.random.default_rng(0)
    mask = np.argsort(rng.random((50_000, 4)), 1) < 2  # two of four: 6 patterns
    assert len(check(mask.reshape(500, 400))) <= 1.005 * 50_000 * math.log2(6) / 8


def normal_entropy(step: float) -> float:
    """Bits of a unit Gaussian rounded to multiples of `step`."""
    p = [0.5 * (math.erf((k + 0.5) * step / 2**0.5) - math.erf((k - 0.5) * step / 2**0.5)) for k in range(-99, 100)]
    return -sum(q * math.log2(q) for q in p if q > 0)


@pytest.mark.parametrize(("rate", "mse"), [(2, 0.0889), (3, 0.0222), (4, 0.00556)])
def test_gaussian_rate_and_error_as_in_theory(rate: float, mse: float) -> None:
    """Entropy-coded scalar quantization of a Gaussian: a quarter of a bit above D(R) (Gish and Pierce, 1968)."""
    low, high = 0.05, 2.0
    for _ in range(40):
        step = (low + high) / 2
        low, high = (step, high) if normal_entropy(step) > rate else (low, step)
    w = np.random.default_rng(0).normal(size=400_000)
    codes = np.rint(w / step).astype(np.int8)
    assert 8 * len(encode_array(codes)) / w.size == pytest.approx(rate, rel=0.005)
    sums = [np.bincount(codes.astype(int) + 128, weights=v, minlength=256) for v in (w * 0 + 1, w)]
    centroids = sums[1] / np.maximum(sums[0], 1)
    assert float(((w - centroids[codes.astype(int) + 128]) ** 2).mean()) == pytest.approx(mse, rel=0.02)


def test_rows_and_columns_of_unlike_size_pay() -> None:
    rng = np.random.default_rng(0)
    spread = np.exp(rng.normal(size=(200, 1)) * 0.7 + rng.normal(size=(1, 300)) * 0.7)
    values = np.clip(np.rint(rng.normal(size=(200, 300)) * spread), -128, 127).astype(np.int8)
    data = check(values)
    assert data[0] == BY_CONTEXT
    assert len(data) < 0.93 * entropy(values)


def test_never_larger_than_raw() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    assert len(check(noise)) == noise.size + 1
    assert len(check(noise[:1, :3])) == 4


def test_a_constant_costs_nothing() -> None:
    assert len(check(np.zeros((1000, 1000), np.int8))) == 2
    assert len(check(np.zeros((1000, 1000), bool))) == 2


def test_floats_save_on_the_exponent() -> None:
    values = np.random.default_rng(0).normal(size=20_000).astype(np.float32)
    assert len(check(values)) < 0.86 * values.nbytes
    assert len(check(np.array([np.nan, np.inf, -0.0, 1e-45], np.float32))) < 30


def coded_symbols(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Symbols of 16ths, their frequencies and starts, and the decoder's tables."""
    f = np.array([9, 5, 1, 1], np.uint32)
    start, symbol = (f.cumsum() - f).astype(np.uint32), np.repeat(np.arange(4), f)
    which = np.random.default_rng(0).choice(4, n, p=f / 16)
    return which, f[which], start[which], (f[symbol], (np.arange(16) - start[symbol]).astype(np.uint32))


@pytest.mark.parametrize("lanes", [1, 2, 19, 100])
def test_lanes_find_every_symbol(lanes: int) -> None:
    which, f, start, tables = coded_symbols(9_999)
    slots = rans.decode(rans.encode(f, start, 4, lanes), which.size, lanes, 4, tables)
    assert (np.repeat(np.arange(4), [9, 5, 1, 1])[slots] == which).all()


@pytest.mark.parametrize("lanes", [1, 100, 400])
def test_a_lane_costs_half_a_byte(lanes: int) -> None:
    which, f, start, _ = coded_symbols(100_000)
    ideal = -np.log2(np.array([9, 5, 1, 1]) / 16)[which].sum() / 8
    assert len(rans.encode(f, start, 4, lanes)) < ideal + 5 + 0.55 * lanes


def test_more_lanes_than_the_symbols_can_fill() -> None:
    _, f, start, _ = coded_symbols(999)
    with pytest.raises(ValueError, match="too few for 100 lanes"):
        rans.encode(f, start, 4, 100)


@pytest.mark.parametrize("kind", [ONE_TABLE, BY_CONTEXT])
def test_damage_is_an_error_or_other_values_never_a_crash(kind: int) -> None:
    rng = np.random.default_rng(0)
    spread = 1 if kind == ONE_TABLE else np.exp(rng.normal(size=(60, 1)))
    values = np.rint(rng.normal(size=(60, 80)) * spread * 4).astype(np.int16)
    data = check(values)
    assert data[0] == kind
    errors = 0
    for i in range(300):
        bad = bytearray(data[: rng.integers(len(data))] if i % 3 == 0 else data)
        if i % 3 and bad:
            bad[rng.integers(min(len(bad), 200))] ^= 1 << rng.integers(8)
        try:
            assert decode_array(bytes(bad), values.dtype, values.shape).shape == values.shape
        except LessenError:
            errors += 1
    assert errors > 200


def test_sizes_are_what_is_written() -> None:
    coding = grid(64, 200, bits=4)
    exact = sum(len(encode_tensor(p)) for p in (coding.codes, coding.scale))
    assert coded_size(coding) == exact
    assert estimated_size(coding) == pytest.approx(exact, rel=0.01)
    assert coded_size(Dense(torch.zeros(10, 10))) < 20


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.bool, torch.int64])
def test_torch_types(dtype: torch.dtype) -> None:
    tensor = (torch.randn(5, 7, generator=generator()) * 3).to(dtype)
    back = decode_tensor(encode_tensor(tensor.t()), str(dtype).split(".")[1], (7, 5))
    assert back.dtype == dtype
    assert torch.equal(back, tensor.t())
    with pytest.raises(LessenError, match="complex64"):
        encode_tensor(torch.zeros(2, dtype=torch.complex64))


def test_same_bytes_twice_and_no_seed_touched() -> None:
    state, values = np.random.get_state()[1].copy(), quantized_normal(50_000, 3).reshape(100, 500)
    assert encode_array(values) == encode_array(values.copy(order="F"))
    assert (np.random.get_state()[1] == state).all()
