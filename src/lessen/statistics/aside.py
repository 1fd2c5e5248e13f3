"""Activations of runs that wait: their memory is given up, their values lie in a file until they are read again."""

from __future__ import annotations

import contextlib
import ctypes
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

LEAST = 2**20  # bytes: smaller storages stay in memory


@dataclass(eq=False)
class _Held:
    """A storage, its place in the file (None: not written, or written over since), and whether it is there only."""

    ref: StorageWeakRef
    size: int
    place: int | None = None
    away: bool = False


class Aside:
    """Storages by identity, whatever tensors look into them; those of the network and of its inputs never move."""

    def __init__(self, fixed: Iterable[Tensor]) -> None:
        self._fixed = {t.untyped_storage()._cdata for t in fixed if t.layout is torch.strided}
        self._held: dict[int, _Held] = {}
        self._free: dict[int, list[int]] = {}
        self._end = 0
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Aside:
        with contextlib.suppress(OSError):  # no room for files: all stays in memory
            self._file = tempfile.TemporaryFile(buffering=0) if hasattr(os, "preadv") else None
        return self

    def __exit__(self, *_: object) -> None:
        self.fetch(list(self._held))  # what a network keeps for its next run
        if self._file is not None:
            self._file.close()

    def note(self, tensor: Tensor) -> int | None:
        """Remembers what an operator returned; the key of its storage, None if that stays where it is."""
        if tensor.layout is not torch.strided or tensor.device.type != "cpu":
            return None
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._held:  # what is away has no bytes
            if key in self._fixed or storage.nbytes() < LEAST or not storage.resizable():
                return None
            self._held[key] = _Held(StorageWeakRef(storage), storage.nbytes())
        return key  # no other storage's: the weak reference keeps its place

    def written(self, keys: Iterable[int]) -> None:
        """Something else will be written into these storages, which are in memory: what the file holds is of no use."""
        for k in keys:
            self._release(self._held[k])

    @contextlib.contextmanager
    def lent(self, tensor: Tensor) -> Iterator[None]:
        """Its values are in memory for a while, if they were set aside."""
        keys = [k for k in [self.note(tensor)] if k is not None and self._held[k].away]
        self.fetch(keys)
        try:
            yield
        finally:
            self.put(keys)

    def put(self, keys: Iterable[int]) -> bool:
        """Gives up the memory of these storages, and the places in the file of all that are gone; whether any did."""
        self._forget()
        gone = False
        for held in [self._held[k] for k in keys if k in self._held]:
            storage = _alive(held.ref)
            if storage is None or held.away or storage.nbytes() != held.size or not storage.resizable():
                continue  # numpy may still look at what it has looked at once
            if held.place is None and not self._write(held, storage):
                break  # nothing is given up where it can't be kept
            storage.resize_(0)
            held.away = gone = True
        return gone

    def fetch(self, keys: Iterable[int]) -> set[int]:
        """Takes these storages back into memory; returns those that still exist."""
        keys = {k for k in keys if k in self._held}
        for held in [self._held[k] for k in keys]:
            storage = _alive(held.ref) if held.away else None
            if storage is not None and self._file is not None and held.place is not None:
                storage.resize_(held.size)
                into, done = _bytes(storage), 0
                while done < held.size:
                    done += os.preadv(self._file.fileno(), [into[done:]], held.place + done)
                held.away = False
        return keys

    def _write(self, held: _Held, storage: torch.UntypedStorage) -> bool:
        """False where the disk is full: then all stays in memory."""
        places = self._free.get(held.size)
        place = places.pop() if places else self._end
        values, done = _bytes(storage), 0
        if self._file is None:
            return False
        try:
            while done < held.size:
                done += os.pwrite(self._file.fileno(), values[done:], place + done)
        except OSError:
            return False
        self._end = max(self._end, place + held.size)
        held.place = place
        return True

    def _release(self, held: _Held) -> None:
        if held.place is not None:
            self._free.setdefault(held.size, []).append(held.place)
            held.place = None

    def _forget(self) -> None:
        for key in [k for k, held in self._held.items() if held.ref.expired()]:
            self._release(self._held.pop(key))


def _alive(ref: StorageWeakRef) -> torch.UntypedStorage | None:
    return torch.UntypedStorage._new_with_weak_ptr(ref.cdata)


def _bytes(storage: torch.UntypedStorage) -> memoryview:
    """Not through numpy: a storage that numpy has looked into can't be resized any more."""
    return memoryview((ctypes.c_char * storage.nbytes()).from_address(storage.data_ptr())).cast("B")
