"""Giving memory back: freed pages belong to the machine again, and large arrays wait in a file until they are read."""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
import os
import tempfile
import weakref
from typing import Any

import numpy as np
import torch
from torch import Tensor

_LEAST = 2**20  # bytes: smaller arrays stay in memory


def give_back() -> None:
    """Asks the C library to return freed pages (glibc keeps them, hundreds of MB after a batch of activations)."""
    rest()
    with contextlib.suppress(OSError, AttributeError):  # another C library: it does what it does
        ctypes.CDLL(None).malloc_trim(0)


class Shelf:
    """Float arrays in one temporary file, mapped: `rest` takes them out of memory until they are touched again.

    Arrays under 1 MB, and all where the file can't grow or the system has no such maps, are ordinary tensors. The
    file has no name, so that nothing is left behind; it goes with the last tensor.
    """

    def __init__(self) -> None:
        self._file: Any = None
        self._end = 0

    def zeros(self, *shape: int) -> Tensor:
        """A new float32 array of zeros."""
        size = 4 * math.prod(shape)
        region = self._region(size) if size >= _LEAST else None
        if region is None:
            return torch.zeros(shape)
        return torch.from_numpy(np.frombuffer(region, np.float32, math.prod(shape)).reshape(shape))

    def kept(self, values: Tensor) -> Tensor:
        """A float32 tensor, moved here."""
        moved = self.zeros(*values.shape).copy_(values)
        rest()
        return moved

    def _region(self, size: int) -> mmap.mmap | None:
        if not (hasattr(os, "posix_fallocate") and hasattr(mmap, "MADV_DONTNEED")):
            return None
        try:
            self._file = self._file or tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as its maps)
            os.posix_fallocate(self._file.fileno(), self._end, size)  # a full disk says so here, not when it is written
            region = mmap.mmap(self._file.fileno(), size, offset=self._end)
        except OSError:
            return None
        self._end += -(-size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        _regions.add(region)
        return region


_regions: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()


def rest() -> None:
    """Takes all shelved arrays out of this process's memory; their values stay, in the file."""
    for region in list(_regions):
        region.madvise(mmap.MADV_DONTNEED)
