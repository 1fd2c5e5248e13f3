"""One lane of range asymmetric numeral systems, a symbol at a time: for short sequences, and for the ends of long ones.

The state begins at 1, below its interval, and sends nothing until it has grown into it: nothing is wasted. The decoder
knows that part of the sequence by its having no words left.
"""

from __future__ import annotations

import numpy as np

from ...errors import LessenError

LOW = 1 << 16  # smallest state of a sequence that sends words
WORD = 16  # bits that leave or enter a state at once
DAMAGED = "coded data is damaged: the coder did not come back to where it began"
_CHUNK = 1 << 16

Tables = tuple[np.ndarray, np.ndarray]


def encode(frequency: np.ndarray, start: np.ndarray, precision: int, room: int = 0) -> tuple[bytes, int]:
    """(the state as four bytes and the words, all little-endian; how many symbols they hold, counted from the end).

    Args:
        frequency, start: of each symbol, uint32 [n], of 2^precision in all.
        room: bytes to fill, an even number from 4 up; 0 takes all symbols.
    """
    x, shift, most = 1, 32 - precision, room // 2 - 2
    words: list[int] = []
    for begin in range((frequency.size - 1) // _CHUNK * _CHUNK, -1, -_CHUNK):
        here = slice(begin, begin + _CHUNK)
        for i, (f, s) in reversed(list(enumerate(zip(frequency[here].tolist(), start[here].tolist(), strict=True)))):
            if x >= f << shift:
                if len(words) == most:
                    return _joined(x, words), frequency.size - begin - i - 1
                words.append(x & 0xFFFF)
                x >>= WORD
            x = (x // f << precision) + x % f + s
    return _joined(x, words), frequency.size


def _joined(x: int, words: list[int]) -> bytes:
    return x.to_bytes(4, "little") + np.array(words[::-1], "<u2").tobytes()


def decode(
    data: bytes, n: int, precision: int, tables: Tables, base: np.ndarray | None = None, end: int = 1
) -> np.ndarray:
    """The slot of each symbol, uint32 [n]; `tables` and `base` as in `rans.decode`. `end`: the state it must end with.

    Raises:
        LessenError: if the data is not what `encode` made with these tables.
    """
    if len(data) < 4 or len(data) % 2:
        raise LessenError(f"coded data of {len(data)} bytes does not hold a state and words")
    # a list is read faster, but takes long to make
    frequency, offset = (t.tolist() if n > t.size else np.ascontiguousarray(t).data for t in tables)
    mask = (1 << precision) - 1
    x, slots = int.from_bytes(data[:4], "little"), np.empty(n, np.uint32)
    rest = np.frombuffer(data, "<u2", offset=4)[::-1].tolist()
    for chunk in range(0, n, _CHUNK):  # as lists of numbers take much memory
        size = min(_CHUNK, n - chunk)
        found = [0] * size if base is None else base[chunk : chunk + size].tolist()
        for i, begin in enumerate(found):
            found[i] = slot = (x & mask) + begin
            x = frequency[slot] * (x >> precision) + offset[slot]
            if x < LOW and rest:
                x = x << WORD | rest.pop()
        slots[chunk : chunk + size] = found
    if rest or x != end:
        raise LessenError(DAMAGED)
    return slots
