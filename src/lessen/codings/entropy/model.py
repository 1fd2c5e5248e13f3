"""The entropy model of a plane: which bits are coded, with which frequency table; chosen by counting bits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from . import contexts, rans, tables
from .contexts import Contexts

_FOLDS = 6  # how many ways to leave low bits uncoded are tried
_SYMBOLS_A_CONTEXT = 1024  # fewer don't earn a table
_STRETCH = 1 << 20  # symbols looked at at once
_LONG = 1 << 17  # symbols; with fewer the precision hardly matters
# Bits a symbol that the coder wastes at the greatest precision, a quarter of that for each bit less: a state x stands
# for x / f, which is cut to a whole number, and that is large only if frequencies are small beside the state.
_WASTE = 0.00135


@dataclass(frozen=True, eq=False)
class Model:
    """How the symbols of a plane are coded; `bits` is what that takes, tables included (known to the writer only)."""

    fold: int  # low bits left uncoded
    precision: int
    tables: tuple[tables.Table, ...]
    contexts: Contexts | None = None
    bits: float = 0.0

    @property
    def width(self) -> int:
        """Symbols in a table."""
        return self.tables[0].levels.size

    def frequencies(self) -> tuple[np.ndarray, np.ndarray]:
        """Frequency and start of each symbol in each context, uint32 [contexts, width] both."""
        f = np.stack([t.frequencies(self.precision) for t in self.tables])
        return f, (np.cumsum(f, 1) - f).astype(np.uint32)


def fit(symbols: np.ndarray, shape: tuple[int, ...], magnitude: np.ndarray | None = None) -> Model:
    """The cheapest model of these symbols (uint8 or uint16, flat, from 0 up).

    Args:
        shape: of the array they come from; the rows and columns of a matrix are used to predict.
        magnitude: integers >= 0 of that shape, how unusual each symbol is; by default its distance from the mode.
    """
    counts = _counted(symbols)
    one = _one_table(counts)
    if len(shape) != 2 or min(shape) < 2 or symbols.size < 2 * _SYMBOLS_A_CONTEXT:
        return one
    if magnitude is None:
        mode = symbols.dtype.type(counts.argmax())
        magnitude = (np.maximum(symbols, mode) - np.minimum(symbols, mode)).reshape(shape)
    return min(one, _by_context(symbols, magnitude, one), key=lambda m: m.bits)


def stretches(n: int, unit: int = 1) -> Iterator[slice]:
    """Slices of n things of so many symbols each: what numpy makes of a slice is eight bytes a symbol and more."""
    step = max(1, _STRETCH // unit)
    return (slice(start, start + step) for start in range(0, n, step))


def _counted(symbols: np.ndarray) -> np.ndarray:
    """How often each symbol occurs, int64."""
    counts = np.zeros(int(symbols.max()) + 1, np.int64)
    for part in stretches(symbols.size):
        counts += np.bincount(symbols[part], minlength=counts.size)
    return counts


def _one_table(counts: np.ndarray) -> Model:
    """The cheapest model of one table; folds are priced in the order of a lower bound, until it says stop."""
    n, width = int(counts.sum()), (counts.size - 1).bit_length()
    first, best = max(0, width - 12), None
    folds = [(_least_bits(_fold(counts, f)) + n * f, f) for f in range(first, max(min(first + _FOLDS, width), 1))]
    for least, fold in sorted(folds):
        if best is not None and least >= best.bits:
            break
        folded = _fold(counts, fold)
        precision = 12 if n < 4096 and folded.size < 512 else 14 if n < 1 << 17 and folded.size < 1024 else 15
        [(table, bits)] = tables.cheapest(folded[None], precision)
        model = Model(fold, precision, (table,), bits=bits + n * fold)
        best = model if best is None or model.bits < best.bits else best
    assert best is not None  # there is always one fold
    return _precise(best, _fold(counts, best.fold)) if n >= _LONG else best


def _precise(model: Model, counts: np.ndarray) -> Model:
    """The precision at which rounded frequencies and the coder's own waste cost least together."""
    n, table, seen = int(counts.sum()), model.tables[0], counts > 0
    unequal = 1 - float(np.square(counts / n).sum())

    def bits(precision: int) -> float:
        lost = -(counts[seen] * np.log2(table.frequencies(precision)[seen] / 2.0**precision)).sum()
        return float(lost) + n * unequal * _WASTE * 4.0 ** (precision - rans.MAX_PRECISION)

    fine = [p for p in range(12, rans.MAX_PRECISION + 1) if 16 * counts.size <= 1 << p]
    return replace(model, precision=min(fine or [rans.MAX_PRECISION], key=bits))


def _least_bits(counts: np.ndarray) -> float:
    """No table codes these counts in fewer bits: their entropy, and a bit for each symbol of the table."""
    seen = counts[counts > 0]
    return float((seen * np.log2(seen.sum() / seen)).sum()) + 8 + counts.size


def _by_context(symbols: np.ndarray, magnitude: np.ndarray, one: Model) -> Model:
    """The cheapest model of several tables, folded as `one` is."""
    rows, columns = contexts.levels(magnitude, 1), contexts.levels(magnitude, 0)
    width, sums = one.width, int(rows.max()) + int(columns.max()) + 1
    matrix, flat = symbols.reshape(magnitude.shape), np.zeros(sums * width, np.int64)
    for part in stretches(rows.size, columns.size):
        of_sum = rows[part].astype(np.int32)[:, None] * width + columns.astype(np.int32) * width
        flat += np.bincount((of_sum + (matrix[part] >> one.fold)).reshape(-1), minlength=flat.size)
    counts = flat.reshape(sums, width)
    side = symbols.size * one.fold + sum(64 + _one_table(np.bincount(s)).bits for s in (rows, columns))
    best, finest = replace(one, bits=np.inf), one.tables[0].fineness
    for count in (2, 4, 8, contexts.MAX_CONTEXTS):
        cuts = contexts.cut(counts.sum(1), count)
        if not cuts or symbols.size < count * _SYMBOLS_A_CONTEXT:
            break
        merged = np.add.reduceat(counts, (0, *cuts))
        fits = tables.cheapest(merged, one.precision, range(max(0, finest - 2), finest + 1))
        bits = side + sum(b for _, b in fits)
        if bits < best.bits:
            best = replace(one, tables=tuple(t for t, _ in fits), contexts=Contexts(rows, columns, cuts), bits=bits)
    return best


def _fold(counts: np.ndarray, fold: int) -> np.ndarray:
    return np.add.reduceat(counts, np.arange(0, counts.size, 1 << fold))
