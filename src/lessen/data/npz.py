"""Reading `.npz` files as untrusted input: no pickle, and no memory taken that the file does not back."""

from __future__ import annotations

import math
import os
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from lessen.budget import show_bytes
from lessen.errors import LessenError

MAX_ARRAYS = 1000
DEFLATE_LIMIT = 1040  # deflate can't do better than 1032:1
BOMB_RATIO, BOMB_BYTES = 100, 1 << 28
_READERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """All arrays of the file, by name.

    Raises:
        LessenError: not a zip, truncated, object arrays (pickles), sizes that lie, or a zip bomb.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_sizes(members, path)
            return {_name(m): _read_member(archive, m, path) for m in members if not m.is_dir()}
    except FileNotFoundError:
        raise LessenError("no such file", where=str(path), mend="check the path") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        raise LessenError(
            f"not a whole .npz file ({error})", where=str(path), mend="write it again with numpy.savez"
        ) from error


def memory_limit() -> int:
    """Half of the machine's memory, in bytes: what data may take."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (ValueError, OSError, AttributeError):
        return 1 << 32


def _name(member: zipfile.ZipInfo) -> str:
    return member.filename.removesuffix(".npy")


def _check_sizes(members: list[zipfile.ZipInfo], path: Path) -> None:
    """Hold what the zip's directory claims against what lies on disk."""
    names = [m.filename for m in members]
    if len(members) > MAX_ARRAYS or len(set(names)) < len(names):
        raise LessenError(f"{len(members)} arrays, or two of one name", where=str(path), mend="keep one array a name")
    packed, unpacked = sum(m.compress_size for m in members), sum(m.file_size for m in members)
    on_disk = path.stat().st_size
    lies = packed > on_disk or any(m.file_size > m.compress_size * DEFLATE_LIMIT + 64 for m in members)
    bomb = unpacked > BOMB_BYTES and unpacked > on_disk * BOMB_RATIO
    if lies or bomb or unpacked > memory_limit():
        why = (
            "its sizes can't be true" if lies else "it looks like a zip bomb" if bomb else "too large for this machine"
        )
        raise LessenError(
            f"{show_bytes(on_disk)} on disk claim to hold {show_bytes(unpacked)}: {why}",
            where=str(path),
            mend="write real data with numpy.savez (uncompressed), or give fewer samples",
        )


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> np.ndarray:
    where = f"{path}, array {_name(member)!r}"
    with archive.open(member) as stream:
        shape, fortran, dtype = _header(stream, where)
        if dtype.hasobject:
            raise LessenError(
                "an object array, which only pickle can read", where=where, mend="save numbers: array.astype('float32')"
            )
        count = math.prod(shape)
        body = member.file_size - stream.tell()
        if min(shape, default=0) < 0 or count * dtype.itemsize != body:
            raise LessenError(
                f"the header says {shape} of {dtype} ({show_bytes(count * dtype.itemsize)}), "
                f"the file holds {show_bytes(body)}",
                where=where,
                mend="the file is damaged; write it again",
            )
        array = np.empty(count, dtype)
        _fill(stream, memoryview(array.view(np.uint8)), where)  # type: ignore[arg-type]  # numpy before 3.12
    return array.reshape(shape, order="F" if fortran else "C")


def _header(stream: IO[bytes], where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    try:
        version = npy.read_magic(stream)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy warns of headers that Python 2 wrote; they are fine
            return _READERS[version](stream)
    except Exception as error:  # a parser raises whatever it likes on hostile input
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LessenError(f"not a numpy array ({text})", where=where, mend="write it with numpy.savez") from error


def _fill(stream: IO[bytes], target: memoryview, where: str) -> None:
    """Read exactly as many bytes as there is room for; at the end the zip compares its checksum."""
    done = 0
    while done < len(target):
        chunk = stream.read(min(1 << 20, len(target) - done))
        if not chunk:
            raise LessenError(f"ends after {done} of {len(target)} bytes", where=where, mend="write the file again")
        target[done : done + len(chunk)] = chunk
        done += len(chunk)
    if stream.read(1):
        raise LessenError("longer than its header says", where=where, mend="write the file again")
