"""Frequency tables: counts, rounded to a logarithmic scale that is cheap to write down, and back.

A count c becomes the level 1 + round(steps * log2 c), or 0 if the symbol never occurs. The finer the steps, the
nearer the table to the counts and the dearer the table; `cheapest` takes the smallest sum of both. Levels become
frequencies by integer arithmetic alone, so every machine builds the same table.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ...errors import LessenError
from .bits import Reader, rice_cost, rice_decode, rice_encode

STEPS = (1, 2, 4, 8, 16)  # levels an octave that a table may have
MAX_SYMBOLS = 4096
_OCTAVES = 34
_FINEST = 32


def _powers() -> np.ndarray:
    """floor(2^(12 + j / 32)) for j < 32 * octaves, by integer roots, the same on every machine."""
    one = 1 << 256
    root = 2 * one
    for _ in range(5):
        root = math.isqrt(root * one)
    values, x = [], one
    for _ in range(_FINEST * _OCTAVES):
        values.append(x >> 244)
        x = x * root >> 256
    return np.array(values, np.int64)


POWERS = _powers()


@dataclass(frozen=True, eq=False)
class Table:
    """The levels of the symbols 0 .. K-1, and how finely they are stepped (index into `STEPS`)."""

    levels: np.ndarray
    fineness: int

    def frequencies(self, precision: int) -> np.ndarray:
        """uint32 [K], summing to 2^precision; at least 1 for a symbol that has a level, 0 for one that has none."""
        weights = _weights(self.fineness)
        if self.levels.size > MAX_SYMBOLS or self.levels.max(initial=0) > weights.size or not self.levels.any():
            raise LessenError("coded data has an impossible frequency table")
        w = np.where(self.levels > 0, weights[np.maximum(self.levels, 1) - 1], 0)
        f = np.maximum((w << precision) // w.sum(), w > 0)
        return _settle(f, 1 << precision).astype(np.uint32)

    def write(self) -> bytes:
        zigzag = _deltas(self.levels)
        k = int(rice_cost(zigzag)[1])
        return bytes([self.fineness << 4 | k]) + rice_encode(zigzag, k)

    @classmethod
    def read(cls, reader: Reader, symbols: int) -> Table:
        head = reader.byte()
        fineness, k = head >> 4, head & 15
        if fineness >= len(STEPS) or k > 7 or not 1 <= symbols <= MAX_SYMBOLS:
            raise LessenError("coded data has an impossible frequency table")
        zigzag = rice_decode(reader, symbols, k)
        levels = np.cumsum(np.where(zigzag & 1, -(zigzag >> 1) - 1, zigzag >> 1))
        if levels.min() < 0:
            raise LessenError("coded data has an impossible frequency table")
        return cls(levels, fineness)


Priced = tuple[Table, float]


def cheapest(counts: np.ndarray, precision: int, fineness: Iterable[int] = range(len(STEPS))) -> list[Priced]:
    """For each row of counts [tables, symbols], the table with the fewest bits for itself and its symbols, and those.

    Each row must have a count above 0. The bits leave out how frequencies are rounded to integers: a few in a million.
    """
    priced = [_price(counts, f, precision) for f in fineness]
    best = np.argmin([bits for bits, _, _ in priced], 0)
    return [(Table(priced[b][1][i], priced[b][2]), float(priced[b][0][i])) for i, b in enumerate(best)]


def _price(counts: np.ndarray, fineness: int, precision: int) -> tuple[np.ndarray, np.ndarray, int]:
    """(bits of each table, levels, fineness)."""
    levels = _levels(counts, fineness)
    weights = np.where(levels > 0, _weights(fineness)[np.maximum(levels, 1) - 1], 0)
    share = np.maximum(weights / weights.sum(1, keepdims=True), 0.5**precision)
    return 8 + rice_cost(_deltas(levels))[0] - (counts * np.log2(share)).sum(1), levels, fineness


def _weights(fineness: int) -> np.ndarray:
    return POWERS[:: _FINEST // STEPS[fineness]]


def _levels(counts: np.ndarray, fineness: int) -> np.ndarray:
    half = _FINEST // STEPS[fineness] // 2
    borders = POWERS[half :: 2 * half]  # geometric means of neighbouring weights
    return np.where(counts > 0, 1 + np.searchsorted(borders, counts.astype(np.int64) << 12), 0)


def _deltas(levels: np.ndarray) -> np.ndarray:
    d = levels.copy()
    d[..., 1:] -= levels[..., :-1]
    return np.where(d < 0, -2 * d - 1, 2 * d)


def _settle(f: np.ndarray, total: int) -> np.ndarray:
    """Move the sum of `f` to `total` by ones, the largest first."""
    while rest := total - int(f.sum()):
        movable = np.flatnonzero(f > (1 if rest < 0 else 0))
        order = movable[np.argsort(-f[movable], kind="stable")][: abs(rest)]
        f[order] += 1 if rest > 0 else -1
    return f
