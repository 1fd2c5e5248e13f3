"""The tensors of a `.lessen` file: one payload each, equal ones stored once, checked before memory is taken."""

from __future__ import annotations

import itertools
import math
import zlib
from typing import Any

import torch
from torch import Tensor

from ..errors import LessenError
from .entropy.tensors import DTYPES, decode_tensor, dtype_name, encode_tensor

# What a file may unfold to: enough for an almost empty network, too little for a bomb.
FREE_BYTES = 16 << 20
MAX_RATIO = 1024
_COLUMNS = ("dtype", "shape", "bytes", "crc32")


class Writer:
    """Collects tensors; `put` returns the number under which one is stored."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, list[int], int, int]] = []
        self.payloads: list[bytes] = []
        self._seen: dict[tuple[str, tuple[int, ...], bytes], int] = {}

    def put(self, tensor: Tensor) -> int:
        name, shape, payload = dtype_name(tensor), tuple(tensor.shape), encode_tensor(tensor)
        key = (name, shape, payload)
        if key not in self._seen:
            self._seen[key] = len(self.rows)
            self.rows.append((name, list(shape), len(payload), zlib.crc32(payload)))
            self.payloads.append(payload)
        return self._seen[key]

    def index(self) -> dict[str, list[Any]]:
        """The list of tensors for the manifest, by columns (they squeeze better than rows)."""
        return {name: [row[i] for row in self.rows] for i, name in enumerate(_COLUMNS)}

    def data(self) -> bytes:
        data = b"".join(self.payloads)
        check_total(self.rows, len(data))
        return data


class Reader:
    """Decodes the tensors of a file by number, each once."""

    def __init__(self, index: dict[str, Any], data: bytes) -> None:
        self.rows = _rows(index)
        check_total(self.rows, len(data))
        ends = [0]
        for row in self.rows:
            ends.append(ends[-1] + row[2])
        if ends[-1] != len(data):
            raise LessenError(f"the tensors take {ends[-1]} bytes by the manifest, {len(data)} in the file")
        self.payloads = [data[a:b] for a, b in itertools.pairwise(ends)]
        self._done: dict[int, Tensor] = {}

    def get(self, number: Any) -> Tensor:
        if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < len(self.rows):
            raise LessenError(f"there is no tensor number {number!r}")
        if number not in self._done:
            dtype, shape, _, crc = self.rows[number]
            if zlib.crc32(self.payloads[number]) != crc:
                raise LessenError("damaged (checksum)")
            self._done[number] = decode_tensor(self.payloads[number], dtype, tuple(shape))
        return self._done[number]


def check_total(rows: list[tuple[str, list[int], int, int]], size: int) -> None:
    """`LessenError` if tensors of these shapes can't honestly come out of `size` bytes."""
    total = sum(math.prod(shape) * torch.empty(0, dtype=DTYPES[name][0]).element_size() for name, shape, _, _ in rows)
    if total > FREE_BYTES + MAX_RATIO * size:
        raise LessenError(f"{size} bytes claim to unfold to {total}: more than {MAX_RATIO} times")


def _rows(index: dict[str, Any]) -> list[tuple[str, list[int], int, int]]:
    columns = [c for name in _COLUMNS if isinstance(c := index.get(name), list)]
    if len(columns) != len(_COLUMNS) or len({len(c) for c in columns}) != 1:
        raise LessenError("the list of tensors is damaged")
    rows = list(zip(*columns, strict=True))
    for row in rows:
        dtype, shape, size, crc = row
        known = isinstance(dtype, str) and dtype in DTYPES
        if not known or not isinstance(shape, list) or len(shape) > 8 or not all(map(_count, (*shape, size, crc))):
            raise LessenError(f"an impossible tensor: {str(row)[:120]}")
    return rows


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40
