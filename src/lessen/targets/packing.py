"""Codes of less than eight bits, several in a word, unpacked by operators that every runtime has.

Both runtimes fold the unpacking into a constant when they load the file: what then runs is the 8-bit kernel.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .chain import INT8, INT32, Chain
from .graph import Array

# bits -> (word, codes in one word). Three, five and six bits fill 30 bits of an int32.
WORDS: dict[int, tuple[type[np.generic], int]] = {
    1: (np.uint8, 8), 2: (np.uint8, 4), 3: (np.int32, 10), 4: (np.uint8, 2), 5: (np.int32, 6), 6: (np.int32, 5),
}  # fmt: skip
NODES = 420  # bytes that the nodes of one unpacking take in the file, about


def code_bytes(count: int, bits: int) -> int:
    """Bytes of so many codes in an ONNX file."""
    if bits > 8:
        return 2 * count
    return _packed_bytes(count, bits) if is_packed(count, bits) else count


def is_packed(count: int, bits: int) -> bool:
    """Packing pays: it saves more than its nodes take."""
    return bits in WORDS and _packed_bytes(count, bits) < count


def _packed_bytes(count: int, bits: int) -> int:
    word, per = WORDS[bits]
    return -(-count // per) * np.dtype(word).itemsize + NODES


def stored_codes(chain: Chain, codes: Array, bits: int, low: int) -> ir.Value:
    """A value that holds integer codes in their shape: int8 when `low` is negative, else uint8 or int32.

    Args:
        codes: integers in [low, low + 2^bits - 1].
        bits: 1 to 16; more than 8 are held as int16.
    """
    if bits > 8:
        return chain.constant("int16", codes.astype(np.int16))
    if not is_packed(codes.size, bits):
        return chain.constant("int8" if low < 0 else "uint8", codes.astype(np.int8 if low < 0 else np.uint8))
    return _unpacked(chain, codes, bits, low)


def _unpacked(chain: Chain, codes: Array, bits: int, low: int) -> ir.Value:
    word, per = WORDS[bits]
    stored = chain.constant(f"int{bits}", packed(codes.reshape(-1).astype(np.int64) - low, bits))
    powers = chain.shared(f"powers{bits}", (1 << (bits * np.arange(per)))[:, None].astype(np.int32))
    words = stored if word is np.int32 else chain.op("Cast", stored, to=INT32)
    value = chain.op("Div", words, powers)  # [codes in a word, words]
    value = chain.op("Mod", value, chain.shared(f"levels{bits}", np.array(1 << bits, np.int32)))
    if low:
        value = chain.op("Sub", value, chain.shared(f"offset{-low}", np.array(-low, np.int32)))
        value = chain.op("Cast", value, to=INT8)
    if codes.size % per:
        value = chain.shaped(value, (-1,))
        ends = chain.shared("start", np.zeros(1, np.int64)), chain.shared(f"end{codes.size}", np.array([codes.size]))
        value = chain.op("Slice", value, *ends)
    return chain.shaped(value, codes.shape)


def packed(codes: Array, bits: int) -> Array:
    """Unsigned codes as words: code i lies in word i % n, at bit position bits * (i // n); n = number of words."""
    word, per = WORDS[bits]
    n = -(-codes.size // per)
    rows = np.pad(codes, (0, n * per - codes.size)).reshape(per, n)
    words = np.zeros(n, np.int64)
    for k, row in enumerate(rows):
        words |= row << (bits * k)
    return words.astype(word)
