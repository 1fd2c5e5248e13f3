"""Which frequency table a symbol of a matrix is coded with: by the usual magnitude in its row and in its column.

Trained weights are not alike all over a matrix: some inputs matter more than others, some outputs have a few large
weights. Each row and each column gets a level (the logarithm of its mean magnitude, four steps an octave), written
beside the symbols; the sum of both levels, cut into a few classes, chooses the table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...errors import LessenError
from .bits import Reader, varint
from .tables import POWERS

MAX_CONTEXTS = 16
_STEP = 8  # of the 32 powers an octave: a quarter of an octave
_MOST_LEVELS = 128


@dataclass(frozen=True, eq=False)
class Contexts:
    """`rows` and `columns`: levels, uint8; `cuts`: the sums at which the next class begins, ascending."""

    rows: np.ndarray
    columns: np.ndarray
    cuts: tuple[int, ...]

    @property
    def count(self) -> int:
        return len(self.cuts) + 1

    def index(self, part: slice = slice(None)) -> np.ndarray:
        """The class of each element of these rows in row-major order, uint8 [rows * columns]."""
        of_sum = np.searchsorted(np.array(self.cuts), np.arange(2 * _MOST_LEVELS), side="right").astype(np.uint8)
        return of_sum[self.rows[part].astype(np.int16)[:, None] + self.columns].reshape(-1)

    def write(self, encode: Callable[[np.ndarray], bytes]) -> bytes:
        streams = [encode(self.rows), encode(self.columns)]
        return bytes([self.count, *self.cuts]) + b"".join(varint(len(s)) + s for s in streams)

    @classmethod
    def read(cls, reader: Reader, shape: tuple[int, int], decode: Callable[[bytes, int], np.ndarray]) -> Contexts:
        count = reader.byte()
        cuts = tuple(reader.take(max(count, 1) - 1))
        rows, columns = (decode(reader.take(reader.varint()), n) for n in shape)
        top = max(rows.max(initial=0), columns.max(initial=0))
        if not 2 <= count <= MAX_CONTEXTS or list(cuts) != sorted(cuts) or top >= _MOST_LEVELS:
            raise LessenError("coded data has impossible contexts")
        return cls(rows, columns, cuts)


def levels(magnitude: np.ndarray, axis: int) -> np.ndarray:
    """Level of the mean of a matrix (integers >= 0) over `axis`, the lowest being 0; uint8."""
    mean = (magnitude.sum(axis, dtype=np.int64) << 12) // magnitude.shape[axis] + 64
    borders = POWERS[_STEP // 2 :: _STEP]
    level = np.searchsorted(borders, mean << 6)
    return np.minimum(level - level.min(), _MOST_LEVELS - 1).astype(np.uint8)


def cut(totals: np.ndarray, count: int) -> tuple[int, ...]:
    """Cuts that make about `count` classes of equal weight out of these counts per sum."""
    share = np.cumsum(totals) / totals.sum()
    cuts = np.searchsorted(share, np.arange(1, count) / count) + 1
    return tuple(int(c) for c in np.unique(cuts) if c < totals.size)
