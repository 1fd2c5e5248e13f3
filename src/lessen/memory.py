"""Giving memory back: freed pages belong to the machine again, and large arrays wait in a file until they are read."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import itertools
import math
import mmap
import os
import tempfile
import weakref
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

_LEAST = 2**20  # bytes: smaller arrays stay in memory
_OF_NETWORK = 2**16  # bytes: smaller parameters of a network that waits in a file stay in memory
_ALIGNED = 16  # numbers
_STRETCH = 2**20
_MOST = 256  # arrays that lie in files at one time: each holds a file open


def give_back() -> None:
    """Asks the C library to return freed pages (glibc keeps them, hundreds of MB after a batch of activations)."""
    rest()
    with contextlib.suppress(OSError, AttributeError):  # another C library: it does what it does
        ctypes.CDLL(None).malloc_trim(0)


def shelved(*shape: int) -> Tensor:
    """A new float32 array of zeros in a temporary file: `rest` takes it out of memory until it is touched again.

    Arrays under 1 MB are ordinary tensors, and so are all where the file can't grow or the system has no such maps.
    The file has no name, so that nothing is left behind; it goes with its tensor.
    """
    size = 4 * math.prod(shape)
    region = _region(size) if size >= _LEAST else None
    if region is None:
        return torch.zeros(shape)
    return torch.from_numpy(np.frombuffer(region, np.float32, math.prod(shape)).reshape(shape))


def kept(values: Tensor) -> Tensor:
    """A float32 tensor, moved to a file likewise."""
    moved = shelved(*values.shape).copy_(values)
    rest()
    return moved


def twin(module: nn.Module) -> nn.Module:
    """A copy of a network whose large parameters lie in a temporary file: `rest` takes them out of memory.

    For networks that are seldom looked at. `copy.deepcopy` of it is an ordinary network again.
    """
    large = [p for p in module.parameters() if type(p) is nn.Parameter and _fits(p)]
    places = [0, *itertools.accumulate(-(-p.numel() // _ALIGNED) * _ALIGNED for p in large)]
    room, memo = shelved(places[-1]).numpy(), dict[int, object]()
    for p, place in zip(large, places, strict=False):
        held = torch.from_numpy(room[place : place + p.numel()]).view_as(p).copy_(p.detach())  # a storage of its own
        memo[id(p)] = nn.Parameter(held, p.requires_grad)
        rest()
    return copy.deepcopy(module, memo)


def stretches(rows: int, columns: int) -> Iterator[slice]:
    """Slices of the rows of a matrix that hold about `_STRETCH` numbers: what is made of each is small."""
    step = max(1, _STRETCH // max(columns, 1))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def _fits(p: Tensor) -> bool:
    return p.dtype is torch.float32 and p.device.type == "cpu" and p.is_contiguous() and p.nbytes >= _OF_NETWORK


def _region(size: int) -> mmap.mmap | None:
    if not (hasattr(os, "posix_fallocate") and hasattr(mmap, "MADV_DONTNEED")) or len(_regions) >= _MOST:
        return None
    try:
        with tempfile.TemporaryFile() as file:
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk says so here, not when it is written
            region = mmap.mmap(file.fileno(), size)
    except OSError:
        return None
    _regions.add(region)
    return region


_regions: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()


def rest() -> None:
    """Takes all shelved arrays out of this process's memory; their values stay, in the file."""
    for region in list(_regions):
        region.madvise(mmap.MADV_DONTNEED)
