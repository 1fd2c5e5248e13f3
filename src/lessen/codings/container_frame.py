"""The frame of a `.lessen` file: a safetensors file of a few byte tensors, written and read with strict checks."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from typing import Any

from ..errors import LessenError

FORMAT_VERSION = 2
MAX_HEADER = 1 << 16  # bytes of the safetensors header
_SECTIONS = ("manifest", "data", "graph")


def frame(sections: Mapping[str, bytes]) -> bytes:
    """A safetensors file with these sections ("manifest" and "data", perhaps "graph") as uint8 tensors."""
    header: dict[str, Any] = {
        "__metadata__": {
            "format": "lessen",
            "format_version": str(FORMAT_VERSION),
            "crc32": str(_checksum(sections)),
        }
    }
    at = 0
    for name in (s for s in _SECTIONS if s in sections):
        size = len(sections[name])
        header[name] = {"dtype": "U8", "shape": [size], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(sections[s] for s in _SECTIONS if s in sections)


def unframe(data: bytes) -> dict[str, bytes]:
    """The sections of a `.lessen` file; `LessenError` for anything else."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 2 <= size <= min(MAX_HEADER, len(data) - 8):
        raise LessenError("not a .lessen file, or cut short")
    header = parse_json(data[8 : 8 + size], "header")
    _check_version(header.get("__metadata__"))
    body = memoryview(data)[8 + size :]
    sections, at = {}, 0
    for name in (s for s in _SECTIONS if s in header):
        end = _end(header[name], name, at, len(body))
        sections[name] = bytes(body[at:end])
        at = end
    if at != len(body) or not {"manifest", "data"} <= set(sections) or set(header) - {"__metadata__", *_SECTIONS}:
        raise LessenError("sections are missing, unknown, or don't fill the file: it is damaged or cut short")
    if header["__metadata__"].get("crc32") != str(_checksum(sections)):
        raise LessenError("the manifest or the graph is damaged (checksum)")
    return sections


def _checksum(sections: Mapping[str, bytes]) -> int:
    """Of manifest and graph; the tensors in the data have checksums of their own, so that the bad one is named."""
    return zlib.crc32(sections["manifest"] + sections.get("graph", b""))


def _end(entry: Any, name: str, at: int, limit: int) -> int:
    """Where a section ends; it must begin where the last one ended."""
    shape = entry.get("shape") if isinstance(entry, dict) else None
    size = shape[0] if isinstance(shape, list) and shape and isinstance(shape[0], int) else -1
    if 0 <= size <= limit - at and entry == {"dtype": "U8", "shape": [size], "data_offsets": [at, at + size]}:
        return int(at + size)
    raise LessenError(f"section {name!r} lies outside the file or over another one")


def _check_version(metadata: Any) -> None:
    """`LessenError` unless the metadata are those of a version that can be read here."""
    if not isinstance(metadata, dict) or metadata.get("format") != "lessen":
        raise LessenError("a safetensors file, but not a .lessen file")
    version = metadata.get("format_version")
    if not isinstance(version, str) or not (version.isascii() and version.isdigit() and 1 <= len(version) < 6):
        raise LessenError(f"impossible format version {version!r}")
    if int(version) > FORMAT_VERSION:
        raise LessenError(
            f"made by a newer lessen: format {version}, this one reads up to {FORMAT_VERSION}",
            mend="pip install -U lessen",
        )
    if int(version) < 1:
        raise LessenError(f"impossible format version {version!r}")


def parse_json(text: bytes, what: str) -> dict[str, Any]:
    """A JSON object; `LessenError` for bad JSON, NaN, nesting too deep, or anything but an object."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is not JSON")

    try:
        value = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise LessenError(f"the {what} is not readable JSON ({error})") from error
    if not isinstance(value, dict):
        raise LessenError(f"the {what} is not a JSON object")
    return value


def squeeze(data: bytes) -> bytes:
    """Raw deflate."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
    return packer.compress(data) + packer.flush()


def unsqueeze(data: bytes, limit: int, what: str) -> bytes:
    """The inverse of `squeeze`, never more than `limit` bytes."""
    unpacker = zlib.decompressobj(-15)
    try:
        out = unpacker.decompress(data, limit + 1)
    except zlib.error as error:
        raise LessenError(f"the {what} is damaged ({error})") from error
    if len(out) > limit or not unpacker.eof or unpacker.unused_data:
        raise LessenError(f"the {what} is damaged, or unfolds to more than {limit} bytes")
    return out
