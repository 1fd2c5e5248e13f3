"""Byte and bit plumbing of the coded streams: bounded reader, varints, Rice codes, bit planes."""

from __future__ import annotations

import numpy as np

from ...errors import LessenError


class Reader:
    """Reads a byte string from the front and refuses to run over its end."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = bytes(data), 0

    def take(self, count: int) -> bytes:
        if count < 0 or count > len(self.data) - self.at:
            raise LessenError(f"coded data ends early: {count} bytes wanted, {len(self.data) - self.at} left")
        self.at += count
        return self.data[self.at - count : self.at]

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)

    def byte(self) -> int:
        return self.take(1)[0]

    def varint(self) -> int:
        value = 0
        for shift in range(0, 63, 7):
            b = self.byte()
            value |= (b & 127) << shift
            if b < 128:
                return value
        raise LessenError("coded data has a number of more than 63 bits")

    def end(self) -> None:
        if self.at != len(self.data):
            raise LessenError(f"coded data has {len(self.data) - self.at} bytes too many")


def varint(value: int) -> bytes:
    """Little-endian base-128 number, `value` >= 0."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def zigzag(value: int) -> int:
    """0, -1, 1, -2, ... as 0, 1, 2, 3, ..."""
    return 2 * value if value >= 0 else -2 * value - 1


def unzigzag(value: int) -> int:
    return value >> 1 if value % 2 == 0 else -(value >> 1) - 1


def rice_cost(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(bits, k) of the cheapest Rice code of numbers >= 0, for each row (the last axis)."""
    costs = [(values >> k).sum(-1) + values.shape[-1] * (1 + k) for k in range(8)]
    return np.min(costs, 0), np.argmin(costs, 0)


def rice_encode(values: np.ndarray, k: int) -> bytes:
    """Quotient by 2^k in unary (ones, ended by a zero), then the k-bit remainder; high bit first."""
    text = "".join("1" * (v >> k) + "0" + (format(v & (1 << k) - 1, f"0{k}b") if k else "") for v in values.tolist())
    text += "0" * (-len(text) % 8)
    return int("1" + text, 2).to_bytes(len(text) // 8 + 1, "big")[1:]


def rice_decode(reader: Reader, count: int, k: int) -> np.ndarray:
    """The inverse of `rice_encode`; moves the reader behind the last whole byte."""
    data = reader.data[reader.at :]
    # A quotient never exceeds 2^16 / 2^k in a valid stream, so the bits needed are bounded by the data that is there.
    text = bin(int.from_bytes(b"\1" + data[: count * 160 + 8], "big"))[3:]
    values, at = [], 0
    for _ in range(count):
        stop = text.find("0", at)
        if stop < 0 or stop + 1 + k > len(text):
            raise LessenError("coded data ends inside a frequency table")
        rest = int(text[stop + 1 : stop + 1 + k], 2) if k else 0
        values.append((stop - at << k) | rest)
        at = stop + 1 + k
    reader.take(-(-at // 8))
    return np.array(values, np.int64)


def pack_bits(values: np.ndarray, bits: int) -> bytes:
    """The low `bits` bits of each value, one bit plane after the other, each plane filled up to a byte."""
    return b"".join(np.packbits((values >> j) & 1 != 0).tobytes() for j in range(bits))


def unpack_bits(reader: Reader, count: int, bits: int) -> np.ndarray:
    values = np.zeros(count, np.int32)
    for j in range(bits):
        plane = np.frombuffer(reader.take(-(-count // 8)), np.uint8)
        values |= np.unpackbits(plane, count=count).astype(np.int32) << j
    return values
