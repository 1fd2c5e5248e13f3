"""Range asymmetric numeral systems over many interleaved lanes, in numpy.

Duda, "Asymmetric numeral systems" (2013); interleaving after Giesen, "Interleaved entropy coders" (2014).
The coder knows nothing of where the frequencies come from: any model that names a (frequency, start) for each
symbol before it is coded will do.

State of a lane: an integer in [2^16, 2^32). Coding a symbol of frequency f and start s (of 2^m in all) maps
x -> (x // f) * 2^m + x % f + s; before that, the low 16 bits go out as a word if x would leave its interval.
Symbol i belongs to lane i % lanes.

A lane that began at 2^16 would waste the 16 bits of its first state. Here they carry the end of the sequence: the last
symbols are coded by `single`, and what that makes, two bytes a lane, is where the lanes begin. So a lane costs half a
byte (what its last state takes beyond what it tells), and the decoder, which finds those symbols last, can see whether
it came back to where the coder began.
"""

from __future__ import annotations

import numpy as np

from ...errors import LessenError
from . import single
from .bits import Reader, varint
from .single import LOW, WORD, Tables

MAX_LANES = 4096
MAX_PRECISION = 15
FEW = 20  # with fewer lanes than this a plain loop is faster than numpy's calls
_PLACES = np.arange(32, dtype=np.uint32)[::-1]


def encode(frequency: np.ndarray, start: np.ndarray, precision: int, lanes: int) -> bytes:
    """Code n symbols, given as their `frequency` and `start` (uint16 or uint32 [n], of 2^precision in all).

    Raises:
        ValueError: so many lanes that all symbols would be carried in their first states.
    """
    if lanes == 1:
        return single.encode(frequency, start, precision)[0]
    carried, inside = single.encode(frequency, start, precision, 2 * lanes)
    x = np.frombuffer(carried, "<u2").astype(np.uint32) | np.uint32(LOW)
    n = frequency.size - inside
    if n <= 0 or x.size != lanes:
        raise ValueError(f"{frequency.size} symbols are too few for {lanes} lanes")
    words = _encode(x, frequency[:n], start[:n], precision)
    return varint(inside) + _pack(x) + words


def decode(
    data: bytes, n: int, lanes: int, precision: int, tables: Tables, base: np.ndarray | None = None
) -> np.ndarray:
    """The slot that each symbol fell into, uint32 [n].

    Args:
        data: what `encode` returned.
        n, lanes, precision: as it was called.
        tables: for each slot of each context, its symbol's frequency and the slot's distance from the symbol's start
            (uint32 [contexts * 2^precision] both).
        base: where in the tables the context of each symbol begins, uint32 [n]; 0 if None.

    Raises:
        LessenError: if the data is not what `encode` made with these tables.
    """
    if lanes == 1:
        return single.decode(data, n, precision, tables, base)
    _check_lanes(lanes)
    reader = Reader(data)
    inside = reader.varint()
    if inside >= n:
        raise LessenError("coded data has more symbols in its lanes than there are")
    x, front = _unpack(reader, lanes), n - inside
    slots = np.empty(n, np.uint32)
    _decode(x, reader.rest(), slots[:front], (precision, tables, None if base is None else base[:front]))
    if (x >> WORD != 1).any():
        raise LessenError(single.DAMAGED)
    carried = (x & 0xFFFF).astype("<u2").tobytes()
    slots[front:] = single.decode(carried, inside, precision, tables, None if base is None else base[front:])
    return slots


def decode_first(
    data: bytes, n: int, lanes: int, precision: int, tables: Tables, base: np.ndarray | None = None
) -> np.ndarray:
    """`decode` for the first version of the format: all lanes begin at 2^16, last states are plain numbers."""
    if lanes == 1:
        return single.decode(data, n, precision, tables, base, LOW)
    _check_lanes(lanes)
    reader, slots = Reader(data), np.empty(n, np.uint32)
    x = np.frombuffer(reader.take(4 * lanes), "<u4").astype(np.uint32)
    _decode(x, reader.rest(), slots, (precision, tables, base))
    if (x != LOW).any():
        raise LessenError(single.DAMAGED)
    return slots


def _check_lanes(lanes: int) -> None:
    if not 1 <= lanes <= MAX_LANES:
        raise LessenError(f"coded data of {lanes} lanes")


def _encode(x: np.ndarray, frequency: np.ndarray, start: np.ndarray, precision: int) -> bytes:
    """The words; `x`, the states of the lanes, goes from the first ones to the last ones."""
    n, lanes = frequency.size, x.size
    words, at = np.empty(n, "<u2"), n
    total, shift = np.uint32(1 << precision), np.uint32(32 - precision)
    for begin in range((n - 1) // lanes * lanes, -1, -lanes):
        f = frequency[begin : begin + lanes].astype(np.uint32)
        live = x[: f.size]
        full = live >= f << shift
        out = live[full]
        if out.size:
            words[at - out.size : at] = out & 0xFFFF
            at -= out.size
            live[full] = out >> WORD
        # (x // f) * 2^m + x % f + s, with one division
        live += live // f * (total - f) + start[begin : begin + lanes]
    return words[at:].tobytes()


def _decode(x: np.ndarray, data: bytes, slots: np.ndarray, how: tuple[int, Tables, np.ndarray | None]) -> None:
    """Fills `slots`; `x` goes from the last states back to the first."""
    precision, (frequency, offset), base = how
    if len(data) % 2:
        raise LessenError("coded data has half a word")
    words, at = np.frombuffer(data, "<u2").astype(np.uint32), 0
    mask, shift, lanes = np.uint32((1 << precision) - 1), np.uint32(precision), x.size
    for begin in range(0, slots.size, lanes):
        live = x[: slots.size - begin]
        slot = live & mask
        if base is not None:
            slot += base[begin : begin + lanes]
        slots[begin : begin + lanes] = slot
        live >>= shift
        live *= frequency.take(slot, mode="clip")
        live += offset.take(slot, mode="clip")
        hungry = np.flatnonzero(live < LOW)
        if hungry.size > words.size - at:
            raise LessenError("coded data ends early")
        if hungry.size:
            live[hungry] = live[hungry] << WORD | words[at : at + hungry.size]
            at += hungry.size
    if at != words.size:
        raise LessenError(single.DAMAGED)


def _pack(x: np.ndarray) -> bytes:
    """States in [2^16, 2^32): four bits for each one's length, then the bits below its highest one."""
    length = np.frexp(x.astype(np.float64))[1].astype(np.uint8) - np.uint8(1)
    nibbles = np.zeros(x.size + x.size % 2, np.uint8)
    nibbles[: x.size] = length - WORD
    bits = np.unpackbits(x.astype(">u4").view(np.uint8)).reshape(-1, 32)
    return (nibbles[::2] << 4 | nibbles[1::2]).tobytes() + np.packbits(bits[length[:, None] > _PLACES]).tobytes()


def _unpack(reader: Reader, lanes: int) -> np.ndarray:
    pairs = np.frombuffer(reader.take(-(-lanes // 2)), np.uint8)
    length = np.stack((pairs >> 4, pairs & 15), 1).reshape(-1)[:lanes].astype(np.uint32) + WORD
    count = int(length.sum())
    bits = np.zeros((lanes, 32), np.uint8)
    packed = np.frombuffer(reader.take(-(-count // 8)), np.uint8)
    bits[length[:, None] > _PLACES] = np.unpackbits(packed, count=count)
    return np.packbits(bits).view(">u4").astype(np.uint32) | np.uint32(1) << length
