"""One plane of integers (at most 16 bits wide) as bytes: what the entropy model chose, then what the coder made.

Streams, by their first byte: 0 raw little-endian values; 1 one value, repeated; 4 rANS with one frequency table;
5 rANS with a table for each class of `contexts`; 2 and 3 the same from files of format 1. See docs/format.md.
"""

from __future__ import annotations

import math

import numpy as np

from ...errors import LessenError
from . import model, rans, tables
from .bits import Reader, pack_bits, unpack_bits, unzigzag, varint, zigzag
from .contexts import Contexts
from .model import Model

RAW, CONSTANT, FIRST_ONE_TABLE, FIRST_BY_CONTEXT, ONE_TABLE, BY_CONTEXT = range(6)
_LANE_BYTES = 1600  # coded bytes for each lane: a lane costs about half a byte, so 0.03 %
_U1 = np.dtype(np.uint8)


def encode_plane(values: np.ndarray, magnitude: np.ndarray | None = None) -> bytes:
    """Code an array of (u)int8, (u)int16 of any shape; never more than one byte larger than the array itself.

    `magnitude` (integers >= 0, same shape) tells how unusual each value is; by default its distance from the mode.
    """
    coded = _coded(values, magnitude) if values.size else b""
    if 0 < len(coded) <= 1 + values.nbytes:
        return coded
    return bytes([RAW]) + values.astype(values.dtype.newbyteorder("<")).tobytes()


def _coded(values: np.ndarray, magnitude: np.ndarray | None) -> bytes:
    low, high = int(values.min()), int(values.max())
    if low == high:
        return bytes([CONSTANT]) + varint(zigzag(low))
    symbols = _symbols(values, low)
    return _write(symbols, low, model.fit(symbols, values.shape, magnitude))


def plane_size(values: np.ndarray, magnitude: np.ndarray | None = None) -> int:
    """About the length of `encode_plane`, without coding: from the bits that the model expects."""
    if not values.size or (low := int(values.min())) == int(values.max()):
        return len(encode_plane(values))
    fitted = model.fit(_symbols(values, low), values.shape, magnitude)
    return min(int(fitted.bits / 8 + _lanes(fitted) / 2) + 7, values.nbytes + 1)


def decode_plane(data: bytes, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """The inverse of `encode_plane`; `LessenError` on anything it can't have written."""
    reader, n = Reader(data), math.prod(shape)
    kind = reader.byte()
    if kind == RAW:
        values = np.frombuffer(reader.take(n * dtype.itemsize), dtype.newbyteorder("<")).astype(dtype)
    elif kind == CONSTANT:
        values = np.full(n, _inside(np.full(1, unzigzag(reader.varint())), dtype)[0])
    elif kind in (FIRST_ONE_TABLE, ONE_TABLE) or (kind in (FIRST_BY_CONTEXT, BY_CONTEXT) and len(shape) == 2):
        values = _inside(_read(reader, shape, kind), dtype)
    else:
        raise LessenError(f"unknown kind of coded stream: {kind}", mend="it may need a newer lessen")
    reader.end()
    return values.reshape(shape)


def _inside(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    info = np.iinfo(dtype)
    if values.size and not info.min <= values.min() <= values.max() <= info.max:
        raise LessenError(f"coded data has values outside {dtype}")
    return values.astype(dtype)


def _symbols(values: np.ndarray, low: int) -> np.ndarray:
    """Distances from the lowest value; unsigned numbers of the same width hold them all."""
    unsigned = np.dtype(f"u{values.dtype.itemsize}")
    native = np.ascontiguousarray(values.reshape(-1), values.dtype.newbyteorder("="))
    return native.view(unsigned) - unsigned.type(low % (1 << 8 * unsigned.itemsize))


def _lanes(fitted: Model) -> int:
    lanes = min(int(fitted.bits / 8 / _LANE_BYTES), rans.MAX_LANES)
    return lanes if lanes >= rans.FEW else 1  # a few lanes are no faster than one


def _write(symbols: np.ndarray, low: int, fitted: Model) -> bytes:
    lanes, fold = _lanes(fitted), fitted.fold
    head = bytes([BY_CONTEXT if fitted.contexts else ONE_TABLE, fitted.precision << 4 | fold])
    head += varint(zigzag(low)) + varint(fitted.width) + varint(lanes)
    if fitted.contexts:
        head += fitted.contexts.write(encode_plane)
    head += b"".join(t.write() for t in fitted.tables) + pack_bits(symbols, fold)
    f, start = _of_each(symbols, fitted)
    del symbols
    return head + rans.encode(f, start, fitted.precision, lanes)


def _of_each(symbols: np.ndarray, fitted: Model) -> tuple[np.ndarray, np.ndarray]:
    """Frequency and start of every symbol, uint16: at most 2^15."""
    f, start = (t.astype(np.uint16).reshape(-1) for t in fitted.frequencies())
    made, contexts = np.empty((2, symbols.size), np.uint16), fitted.contexts
    rows, unit = (symbols.size, 1) if contexts is None else (contexts.rows.size, contexts.columns.size)
    for part in model.stretches(rows, unit):
        here = slice(part.start * unit, part.stop * unit)
        which = (symbols[here] >> fitted.fold).astype(np.uint32)
        if contexts is not None:
            which += contexts.index(part) * np.uint32(fitted.width)
        made[0, here], made[1, here] = f[which], start[which]
    return made[0], made[1]


def _read(reader: Reader, shape: tuple[int, ...], kind: int) -> np.ndarray:
    head, low, width, lanes = reader.byte(), unzigzag(reader.varint()), reader.varint(), reader.varint()
    precision, fold = head >> 4, head & 15
    if not 8 <= precision <= rans.MAX_PRECISION or not 1 <= width << fold <= 1 << 17 or abs(low) > 1 << 16:
        raise LessenError("coded data has an impossible head")
    context = None
    if kind in (FIRST_BY_CONTEXT, BY_CONTEXT):
        context = Contexts.read(reader, (shape[0], shape[1]), lambda data, n: decode_plane(data, (n,), _U1))
    count = context.count if context else 1
    fitted = Model(fold, precision, tuple(tables.Table.read(reader, width) for _ in range(count)), context)
    n = math.prod(shape)
    rest = unpack_bits(reader, n, fold) if fold else 0
    f, start = fitted.frequencies()
    symbol = np.repeat(np.tile(np.arange(width, dtype=np.int32), count), f.reshape(-1))
    offset = np.arange(symbol.size, dtype=np.uint32) - np.repeat(_slot_starts(start, precision), f.reshape(-1))
    base = None if context is None else context.index() * np.uint32(1 << precision)
    decode = rans.decode if kind in (ONE_TABLE, BY_CONTEXT) else rans.decode_first
    slots = decode(reader.rest(), n, lanes, precision, (np.repeat(f.reshape(-1), f.reshape(-1)), offset), base)
    return low + (symbol[slots] << fold | rest)


def _slot_starts(start: np.ndarray, precision: int) -> np.ndarray:
    """Where each symbol's slots begin when the tables of all contexts lie one after the other."""
    return (start + (np.arange(len(start), dtype=np.uint32) << precision)[:, None]).astype(np.uint32).reshape(-1)
