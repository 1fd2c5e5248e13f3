"""`IntegerNet`: a network executed in whole numbers, additions, products and shifts; the reference for a C target.

Every operation here is exact, so every machine gives the same bits. Nothing in this file is a floating-point number.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Pair = tuple[int, int]
_LEAST = -(1 << 31)


class Step(Protocol):
    """One operation: int64 codes [n, ...] to int64 codes."""

    def run(self, x: Ints) -> Ints: ...


@dataclass(frozen=True, eq=False)
class Product:
    """Convolution or linear layer: y = clamp((sum w x + bias) >> shift, low, high).

    Args:
        weight: codes [out, in / groups, height, width]; a linear layer has [out, in, 1, 1] and x [n, in].
        bias: [out], in steps of the accumulator; half of what `shift` drops is in it, so that it rounds to nearest.
        shift: [out], 0 to 31: from the accumulator's binary point to the output's.
        low, high: where the output saturates; low = 0 is a ReLU.
        accumulator: bits of the sum that no input can overflow; at most 32.
    """

    name: str
    weight: Ints
    bias: Ints
    shift: Ints
    low: int
    high: int
    accumulator: int
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def run(self, x: Ints) -> Ints:
        flat = x.ndim == 2
        sums = self.sums(x[:, :, None, None] if flat else x)
        y = np.clip(sums >> self.shift[:, None, None], self.low, self.high)
        return y[:, :, 0, 0] if flat else y

    def sums(self, x: Ints) -> Ints:
        """The accumulator at its end, [n, out, height, width]."""
        out, inner, kh, kw = (int(s) for s in self.weight.shape)
        windows = _windows(_padded(x, self.padding, 0), (kh, kw), self.stride, self.dilation)
        n, _, height, width = windows.shape[:4]
        rows = []
        for g in range(self.groups):
            columns = windows[:, g * inner : (g + 1) * inner].transpose(0, 2, 3, 1, 4, 5).reshape(-1, inner * kh * kw)
            w = self.weight[g * out // self.groups : (g + 1) * out // self.groups]
            rows.append(columns @ w.reshape(len(w), -1).T)
        total = np.concatenate(rows, axis=1).reshape(n, height, width, out).transpose(0, 3, 1, 2)
        return total + self.bias[:, None, None]


@dataclass(frozen=True)
class MaxPool:
    """The largest of each window; padding never wins."""

    size: Pair
    stride: Pair
    padding: Pair = (0, 0)

    def run(self, x: Ints) -> Ints:
        return _windows(_padded(x, self.padding, _LEAST), self.size, self.stride, (1, 1)).max(axis=(-2, -1))


@dataclass(frozen=True)
class MeanPool:
    """The mean of each window: a product with round(2^shift / count) and a shift; `size` None is the whole picture."""

    size: Pair | None
    stride: Pair
    shift: int

    def run(self, x: Ints) -> Ints:
        size = self.size or (x.shape[2], x.shape[3])
        count = size[0] * size[1]
        factor = ((1 << self.shift) + (count >> 1)) // count
        sums = _windows(x, size, self.stride if self.size else size, (1, 1)).sum(axis=(-2, -1))
        return (sums * factor + (1 << self.shift - 1)) >> self.shift


@dataclass(frozen=True)
class Relu:
    """Zero for what is negative."""

    def run(self, x: Ints) -> Ints:
        return np.maximum(x, 0)


@dataclass(frozen=True)
class Flatten:
    """[n, ...] to [n, all]."""

    def run(self, x: Ints) -> Ints:
        return x.reshape(len(x), -1)


@dataclass(frozen=True, eq=False)
class IntegerNet:
    """Steps one after the other.

    Args:
        bits: of the input's codes, signed.
        fraction: input value = code / 2^fraction.
        output_fraction: output value = code / 2^output_fraction.
    """

    steps: tuple[Step, ...]
    bits: int
    fraction: int
    output_fraction: int

    def run(self, codes: Ints) -> Ints:
        """Output codes [n, ...] of input codes [n, ...]; both int64, clipped to `bits` on the way in."""
        if not np.issubdtype(codes.dtype, np.integer):
            raise TypeError(f"codes are integers, not {codes.dtype}; see QFormat.codes")
        x = np.clip(codes.astype(np.int64), -(1 << self.bits - 1), (1 << self.bits - 1) - 1)
        for step in self.steps:
            x = step.run(x)
        return x

    def sha256(self, codes: Ints) -> str:
        """Digest of the output: equal on every machine."""
        return hashlib.sha256(np.ascontiguousarray(self.run(codes)).astype("<i8").tobytes()).hexdigest()


def _padded(x: Ints, padding: Pair, value: int) -> Ints:
    (h, w) = padding
    return np.pad(x, ((0, 0), (0, 0), (h, h), (w, w)), constant_values=value) if h or w else x


def _windows(x: Ints, size: Pair, stride: Pair, dilation: Pair) -> Ints:
    """[n, channels, height, width, *size]: a view."""
    reach = tuple((s - 1) * d + 1 for s, d in zip(size, dilation, strict=True))
    every = sliding_window_view(x, reach, axis=(2, 3))
    return every[:, :, :: stride[0], :: stride[1], :: dilation[0], :: dilation[1]]
