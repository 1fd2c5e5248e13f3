"""Giving memory back: freed pages belong to the machine again, and large arrays wait in a file until they are read."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import gc
import itertools
import math
import mmap
import os
import tempfile
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

_LEAST = 2**18  # bytes: smaller arrays stay in memory
_OF_NETWORK = 2**16  # bytes: smaller parameters of a network that waits in a file stay in memory
_ALIGNED = 16  # numbers
_STRETCH = 2**20
_MOST = 512  # arrays that lie in files at one time: each holds a file open
_TRIM, _MMAP = -1, -3  # of glibc's mallopt
_USUAL = 2**25  # bytes
_TORCH = str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")


def give_back() -> None:
    """Collects what only refers to itself (graphs that were written), and returns freed pages to the machine.

    Inside `frugal` the collection passes over all that was there before.
    """
    gc.collect()
    trim()


def trim() -> None:
    """Asks the C library to return freed pages (glibc keeps them, hundreds of MB after a batch of activations).

    MKL gives back what it packed matrices in: each thread that multiplied keeps some 10 MB.
    """
    rest()
    with contextlib.suppress(OSError, AttributeError):  # torch without MKL
        ctypes.CDLL(_TORCH).mkl_serv_thread_free_buffers()
    with contextlib.suppress(OSError, AttributeError):  # another C library: it does what it does
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def frugal(pages: int = 2**20) -> Iterator[None]:
    """While this lasts, arrays of 1 MB (`pages` bytes) and more get pages of their own, which go with them (glibc).

    Left alone, glibc raises that limit up to 32 MB with every large array that is freed: from then on activations lie
    between small things that stay, and the gaps are kept. Measured, that is half of the memory above what lives.
    Afterwards the limit is 32 MB, where it would have got to. Python objects that are there at the beginning are not
    looked at by the garbage collector meanwhile (unless someone froze some already), so that it can be called often.
    """
    _frugal.append(pages)
    _limits(pages)
    frozen = not gc.get_freeze_count()
    if frozen:
        gc.freeze()
    try:
        yield
    finally:
        if frozen:
            gc.unfreeze()
        _frugal.pop()
        _limits(_frugal[-1] if _frugal else _USUAL)
        trim()


@contextlib.contextmanager
def lavish() -> Iterator[None]:
    """Suspends `frugal`: what is timed should not wait for new pages that it would not wait for elsewhere."""
    _limits(_USUAL)
    try:
        yield
    finally:
        if _frugal:
            _limits(_frugal[-1])
            trim()


_frugal: list[int] = []  # of each that lasts


def _limits(size: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP, size)
        library.mallopt(_TRIM, 2 * size)


def shelved(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A new array of zeros in a temporary file: `rest` takes it out of memory until it is touched again.

    Arrays under 256 kB are ordinary tensors, and so are all where the file can't grow or the system has no such maps.
    The file has no name, so that nothing is left behind; it goes with its tensor.
    """
    size = dtype.itemsize * math.prod(shape)
    region = _region(size) if size >= _LEAST else None
    if region is None:
        return torch.zeros(shape, dtype=dtype)
    return torch.from_numpy(np.frombuffer(region, np.uint8)).view(dtype).reshape(shape)


def kept(values: Tensor) -> Tensor:
    """A tensor moved to a file likewise."""
    moved = shelved(*values.shape, dtype=values.dtype).copy_(values)
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
        held = torch.from_numpy(room[place : place + p.numel()])  # a storage of its own
        for some in stretches(p.numel(), 1):
            held[some] = p.detach().view(-1)[some]
            rest()
        memo[id(p)] = nn.Parameter(held.view_as(p), p.requires_grad)
    return copy.deepcopy(module, memo)


def stretches(rows: int, columns: int, numbers: int = _STRETCH) -> Iterator[slice]:
    """Slices of the rows of a matrix that hold about so many numbers: what is made of each is small."""
    step = max(1, numbers // max(columns, 1))
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
