"""`.npz` files as people write them, and as attackers do."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lessen.data import load_data
from lessen.data.npz import read_npz
from lessen.errors import LessenError


def _npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


def _zip(path: Path, compression: int = zipfile.ZIP_STORED, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, body in members.items():
            archive.writestr(f"{name}.npy", body)
    return path


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.float32).reshape(4, 6),
        np.asfortranarray(np.arange(24, dtype=">f8").reshape(4, 6)),
        np.array(3),
        np.zeros((0, 3)),
        np.array([True, False]),
    ],
)
def test_reads_what_numpy_writes(tmp_path: Path, save: object, array: np.ndarray) -> None:
    save(tmp_path / "a.npz", x=array)  # type: ignore[operator]
    found = read_npz(tmp_path / "a.npz")["x"]
    assert found.dtype == array.dtype and found.shape == array.shape
    np.testing.assert_array_equal(found, array)


class Boom:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("a pickle was opened",))


def test_object_arrays_are_never_unpickled(tmp_path: Path) -> None:
    path = _zip(tmp_path / "a.npz", x=_npy(np.array([Boom()], dtype=object)))
    with pytest.raises(LessenError, match=r"object array.*only pickle") as caught:
        read_npz(path)
    assert "'x'" in caught.value.where


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.random.default_rng(0).normal(size=(40, 5)), y=np.arange(40))
    whole = (tmp_path / "a.npz").read_bytes()
    for length in range(0, len(whole) - 1, 97):
        (tmp_path / "b.npz").write_bytes(whole[:length])
        with pytest.raises(LessenError, match="mend"):
            read_npz(tmp_path / "b.npz")


@pytest.mark.parametrize("shape", [(10, 10**12), (10**30,), (-4, 6), (4, 5), (4, 7)])
def test_lying_headers(tmp_path: Path, shape: tuple[int, ...]) -> None:
    body = _npy(np.arange(24, dtype=np.float32).reshape(4, 6))
    start = struct.unpack("<H", body[8:10])[0] + 10
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape!r}, }}".encode()
    header = text + b" " * (start - 11 - len(text)) + b"\n"
    path = _zip(tmp_path / "a.npz", x=body[:8] + struct.pack("<H", len(header)) + header + body[start:])
    with pytest.raises(LessenError, match="the header says"):
        read_npz(path)


@pytest.mark.parametrize(
    "header", [b"__import__('os').system('true')\n", b"{" * 5000 + b"\n", b"\n", b"{'descr': 'O8'}\n", b"\xff\xfe\n"]
)
def test_hostile_headers(tmp_path: Path, header: bytes) -> None:
    path = _zip(tmp_path / "a.npz", x=b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    with pytest.raises(LessenError, match="not a numpy array"):
        read_npz(path)


def test_zip_bomb(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x.npy", "w") as out,
    ):
        for _ in range(300):
            out.write(bytes(1 << 20))
    with pytest.raises(LessenError, match="zip bomb"):
        read_npz(path)


def test_directory_that_lies_about_sizes(tmp_path: Path) -> None:
    path = _zip(tmp_path / "a.npz", x=_npy(np.zeros(8, np.float32)))
    raw = bytearray(path.read_bytes())
    central = raw.rindex(b"PK\x01\x02")
    raw[central + 24 : central + 28] = struct.pack("<I", 0xFFFFFF00)  # unpacked size: 4 GB
    path.write_bytes(raw)
    with pytest.raises(LessenError, match="can't be true"):
        read_npz(path)


def test_not_npz(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"\x80\x04K\x01.")  # a pickle by another name
    with pytest.raises(LessenError, match=r"not a whole \.npz"):
        load_data(tmp_path / "a.npz")
    with pytest.raises(LessenError, match="no such file"):
        load_data(tmp_path / "missing.npz")
    _zip(tmp_path / "c.npz", x=b"hello")
    with pytest.raises(LessenError, match="not a numpy array"):
        read_npz(tmp_path / "c.npz")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 255))
def test_a_flipped_byte_is_an_error_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int
) -> None:
    path = tmp_path_factory.mktemp("flip") / "a.npz"
    np.savez(path, x=np.arange(60, dtype=np.float32).reshape(20, 3), y=np.arange(20))
    raw = bytearray(path.read_bytes())
    raw[place % len(raw)] = value
    path.write_bytes(raw)
    try:
        arrays = read_npz(path)
    except LessenError:
        return
    assert sum(a.nbytes for a in arrays.values()) <= 400
