"""Arrays of any number type as bytes: cut into planes that the entropy coder can do something with."""

from __future__ import annotations

import math

import numpy as np

from ...errors import LessenError
from .bits import Reader, varint
from .symbols import decode_plane, encode_plane, plane_size

_U1 = np.dtype(np.uint8)
_SURVIVORS = np.array([bin(i).count("1") for i in range(16)], np.int32)
_WIDE = ("f2", "f4", "f8", "i4", "u4", "i8", "u8")
_NARROW = ("i1", "u1", "i2", "u2")


def encode_array(array: np.ndarray, floating: bool | None = None) -> bytes:
    """Code an array without loss; dtype and shape are not in the bytes.

    Args:
        array: bool, (u)int8 to (u)int64, float16 to float64.
        floating: cut it into sign, exponent and mantissa; by default if it has a float type. (bfloat16, which
            numpy lacks, comes as uint16 with `floating=True`.)
    """
    planes = [encode_plane(*p) for p in _planes(array, floating)]
    return planes[0] if len(planes) == 1 else b"".join(varint(len(p)) + p for p in planes)


def array_size(array: np.ndarray, floating: bool | None = None) -> int:
    """About the length of `encode_array`, several times faster: nothing is coded, the model's bits are counted."""
    sizes = [plane_size(*p) for p in _planes(array, floating)]
    return sizes[0] if len(sizes) == 1 else sum(size + len(varint(size)) for size in sizes)


def decode_array(data: bytes, dtype: np.dtype, shape: tuple[int, ...], floating: bool | None = None) -> np.ndarray:
    """The inverse of `encode_array`.

    The caller bounds the memory: prod(shape) values are allocated whatever the size of `data`.

    Raises:
        LessenError: if `data` is not what `encode_array` made of such an array.
    """
    dtype, n = np.dtype(dtype), math.prod(shape)
    floating = dtype.kind == "f" if floating is None else floating
    if dtype.kind == "b":
        nibbles = decode_plane(data, _nibble_shape(shape), _U1)
        if nibbles.max(initial=0) > 15:
            raise LessenError("coded data has values outside a mask")
        bits = np.unpackbits(nibbles.reshape(-1, 1), axis=1, count=4, bitorder="little")
        return bits.reshape(-1)[:n].astype(bool).reshape(shape)
    if dtype.str[1:] in _NARROW and not floating:
        return decode_plane(data, shape, dtype)
    if dtype.str[1:] not in _WIDE + _NARROW:
        raise LessenError(f"arrays of {dtype} can't be coded")
    reader = Reader(data)
    planes = [decode_plane(reader.take(reader.varint()), (n,), _U1) for _ in range(dtype.itemsize)]
    reader.end()
    return _from_planes(planes, dtype, floating).reshape(shape)


def _planes(array: np.ndarray, floating: bool | None) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """The planes of an array, each with its magnitudes where they are not the usual ones."""
    array = np.ascontiguousarray(array).reshape(array.shape)
    floating = array.dtype.kind == "f" if floating is None else floating
    if array.dtype.kind == "b":
        nibbles = _nibbles(array)
        return [(nibbles, _SURVIVORS[nibbles])]
    if array.dtype.str[1:] in _NARROW and not floating:
        return [(array, None)]
    if array.dtype.str[1:] not in _WIDE + _NARROW:
        raise LessenError(f"arrays of {array.dtype} can't be coded")
    return [(plane, None) for plane in _to_planes(array, floating)]


def _nibbles(mask: np.ndarray) -> np.ndarray:
    """Four mask bits a symbol: a quarter of the work, and N:M patterns cost what they are worth."""
    shape = _nibble_shape(mask.shape)
    padded = np.zeros(math.prod(shape) * 4, np.uint8)
    padded[: mask.size] = mask.reshape(-1)
    return (padded.reshape(-1, 4) @ np.array([1, 2, 4, 8], np.uint8)).reshape(shape)


def _nibble_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A matrix stays one if its rows are whole nibbles."""
    if len(shape) == 2 and shape[1] % 4 == 0:
        return (shape[0], shape[1] // 4)
    return (-(-math.prod(shape) // 4),)


def _to_planes(array: np.ndarray, floating: bool) -> list[np.ndarray]:
    """Bytes of equal weight together, lowest first; of floats after the sign went behind the mantissa."""
    bits = 8 * array.dtype.itemsize
    u = array.reshape(-1).view(f"u{array.dtype.itemsize}")
    if floating:
        u = u << 1 | u >> bits - 1
    return [(u >> 8 * i & 255).astype(np.uint8) for i in range(array.dtype.itemsize)]


def _from_planes(planes: list[np.ndarray], dtype: np.dtype, floating: bool) -> np.ndarray:
    bits = 8 * dtype.itemsize
    unsigned = np.dtype(f"u{dtype.itemsize}")
    u = np.zeros(planes[0].size, unsigned)
    for i, plane in enumerate(planes):
        u |= plane.astype(unsigned) << unsigned.type(8 * i)
    if floating:
        u = u >> unsigned.type(1) | u << unsigned.type(bits - 1)
    return u.view(dtype)
