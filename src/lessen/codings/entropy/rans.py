"""Range asymmetric numeral systems over many interleaved lanes, in numpy.

Duda, "Asymmetric numeral systems" (2013); interleaving after Giesen, "Interleaved entropy coders" (2014).
The coder knows nothing of where the frequencies come from: any model that names a (frequency, start) for each
symbol before it is coded will do.

State of a lane: an integer in [2^16, 2^32). Coding a symbol of frequency f and start s (of 2^m in all) maps
x -> (x // f) * 2^m + x % f + s; before that, the low 16 bits go out as a word if x would leave its interval.
Symbol i belongs to lane i % lanes. Lanes start at 2^16, which the decoder finds again: a free check of the whole.
"""

from __future__ import annotations

import numpy as np

from ...errors import LessenError

LOW = 1 << 16  # smallest state
WORD = 16  # bits that leave or enter a state at once
MAX_LANES = 4096
MAX_PRECISION = 15
_CHUNK = 1 << 16
FEW = 20  # with fewer lanes than this a plain loop is faster than numpy's calls

Tables = tuple[np.ndarray, np.ndarray]


def encode(frequency: np.ndarray, start: np.ndarray, precision: int, lanes: int) -> bytes:
    """Code n symbols, given as their `frequency` and `start` (uint32 [n], of 2^precision in all)."""
    if lanes < FEW:
        return _encode_few(frequency, start, precision, lanes)
    n = frequency.size
    x = np.full(lanes, LOW, np.uint32)
    words, at = np.empty(n, "<u2"), n
    total, shift = np.uint32(1 << precision), np.uint32(32 - precision)
    for begin in range((n - 1) // lanes * lanes, -1, -lanes):
        f = frequency[begin : begin + lanes]
        live = x[: f.size]
        full = live >= f << shift
        out = live[full]
        if out.size:
            words[at - out.size : at] = out & 0xFFFF
            at -= out.size
            live[full] = out >> WORD
        # (x // f) * 2^m + x % f + s, with one division
        live += live // f * (total - f) + start[begin : begin + lanes]
    return x.astype("<u4").tobytes() + words[at:].tobytes()


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
    if not 1 <= lanes <= MAX_LANES or len(data) < 4 * lanes or len(data) % 2:
        raise LessenError(f"coded data of {len(data)} bytes does not hold {lanes} lanes")
    states = np.frombuffer(data, "<u4", lanes).astype(np.uint32)
    words = np.frombuffer(data, "<u2", offset=4 * lanes).astype(np.uint32)
    if lanes < FEW:
        return _decode_few(states.tolist(), words, n, precision, tables, base)
    frequency, offset = tables
    slots, at = np.empty(n, np.uint32), 0
    mask, shift = np.uint32((1 << precision) - 1), np.uint32(precision)
    for begin in range(0, n, lanes):
        x = states[: n - begin]
        slot = x & mask
        if base is not None:
            slot += base[begin : begin + lanes]
        slots[begin : begin + lanes] = slot
        x >>= shift
        x *= frequency.take(slot, mode="clip")
        x += offset.take(slot, mode="clip")
        hungry = np.flatnonzero(x < LOW)
        if hungry.size > words.size - at:
            raise LessenError("coded data ends early")
        if hungry.size:
            x[hungry] = x[hungry] << WORD | words[at : at + hungry.size]
            at += hungry.size
    _check_end(at == words.size and bool((states == LOW).all()))
    return slots


def _check_end(clean: bool) -> None:
    if not clean:
        raise LessenError("coded data is damaged: the coder did not come back to where it began")


def _encode_few(frequency: np.ndarray, start: np.ndarray, precision: int, lanes: int) -> bytes:
    """`encode`, one symbol at a time."""
    x, words, shift = [LOW] * lanes, [], 32 - precision
    for begin in range((frequency.size - 1) // _CHUNK * _CHUNK, -1, -_CHUNK):
        f_s = zip(frequency[begin : begin + _CHUNK].tolist(), start[begin : begin + _CHUNK].tolist(), strict=True)
        for i, (f, s) in reversed(list(enumerate(f_s, begin))):
            state = x[i % lanes]
            if state >= f << shift:
                words.append(state & 0xFFFF)
                state >>= WORD
            x[i % lanes] = (state // f << precision) + state % f + s
    return np.array(x, "<u4").tobytes() + np.array(words[::-1], "<u2").tobytes()


def _decode_few(
    x: list[int], words: np.ndarray, n: int, precision: int, tables: Tables, base: np.ndarray | None
) -> np.ndarray:
    """`decode`, one symbol at a time; by chunks, as lists of numbers take much memory."""
    frequency, offset = tables[0].tolist(), tables[1].tolist()
    slots, rest, mask, lanes = np.empty(n, np.uint32), words[::-1].tolist(), (1 << precision) - 1, len(x)
    for chunk in range(0, n, _CHUNK):
        size = min(_CHUNK, n - chunk)
        found = [0] * size if base is None else base[chunk : chunk + size].tolist()
        for i, begin in enumerate(found):
            lane = (chunk + i) % lanes
            state = x[lane]
            found[i] = slot = (state & mask) + begin
            state = frequency[slot] * (state >> precision) + offset[slot]
            if state < LOW:
                if not rest:
                    raise LessenError("coded data ends early")
                state = state << WORD | rest.pop()
            x[lane] = state
        slots[chunk : chunk + size] = found
    _check_end(not rest and all(state == LOW for state in x))
    return slots
