"""The `.lessen` file: a compressed network, whole. Specified in docs/format.md."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import LessenError
from . import container_frame as frame
from .coding import Coding
from .container_check import check_coding, check_parts
from .container_pool import Reader, Writer

MAX_GRAPH = 64 << 20
_TENSOR = "$tensor"  # in edits, {"$tensor": 7} stands for tensor number 7
_MAX_DEPTH = 64


@dataclass(frozen=True, eq=False)
class Package:
    """What a `.lessen` file holds.

    Args:
        codings: parameter name -> how its matrix is held.
        layouts: parameter name -> what turns the matrix back into the parameter (kind, out_axis, groups, shape).
        others: name -> parameters and buffers kept as they are.
        edits: structural changes to the original network, in order; JSON values and tensors.
        graph: the network without its weights (ONNX bytes), or None.
        info: JSON values about the file: lessen version, original model, digests of plan and report.
    """

    codings: dict[str, Coding] = field(default_factory=dict)
    layouts: dict[str, dict[str, Any]] = field(default_factory=dict)
    others: dict[str, Tensor] = field(default_factory=dict)
    edits: list[dict[str, Any]] = field(default_factory=list)
    graph: bytes | None = None
    info: dict[str, Any] = field(default_factory=dict)


def to_bytes(package: Package) -> bytes:
    """The bytes of the file: the same for the same package, always."""
    pool = Writer()
    manifest = {
        "codings": {k: _describe(k, c, pool) for k, c in sorted(package.codings.items())},
        "layouts": package.layouts,
        "others": {k: pool.put(t) for k, t in sorted(package.others.items())},
        "edits": _lift(package.edits, pool),
        "info": package.info,
        "tensors": pool.index(),
    }
    try:
        text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise LessenError(f"layouts, edits, settings and info must be JSON values ({error})") from error
    sections = {"manifest": frame.squeeze(text.encode()), "data": pool.data()}
    if package.graph is not None:
        if len(package.graph) > MAX_GRAPH:
            raise LessenError(f"a graph of {len(package.graph)} bytes is too large", mend="leave the weights out of it")
        sections["graph"] = frame.squeeze(package.graph)
    return frame.frame(sections)


def from_bytes(data: bytes, where: str = "") -> Package:
    """The inverse of `to_bytes`.

    Args:
        data: the file; untrusted.
        where: its name, for messages.

    Raises:
        LessenError: whatever is wrong with the data.
    """
    try:
        return _read(data)
    except LessenError as error:
        raise LessenError(error.what, where=": ".join(filter(None, (where, error.where))), mend=error.mend) from error


def write_lessen(path: str | os.PathLike[str], package: Package) -> None:
    """Write a `.lessen` file, whole or not at all; `LessenError` if that can't be done."""
    path, data = Path(path), to_bytes(package)
    if not path.name or "\0" in str(path):
        raise LessenError("is not a name for a file", where=str(path))
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise LessenError(f"can't be written: {error.strerror}", where=str(path)) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def read_lessen(path: str | os.PathLike[str]) -> Package:
    """Read a `.lessen` file; `LessenError`, which names the file and the tensor, for anything that is wrong with it."""
    path = Path(path)
    try:
        if not path.is_file():
            raise LessenError("there is no such file", where=str(path))
        data = path.read_bytes()
    except OSError as error:
        raise LessenError(f"can't be read: {error.strerror}", where=str(path)) from error
    return from_bytes(data, str(path))


def _read(data: bytes) -> Package:
    sections = frame.unframe(data)
    packed = sections["manifest"]
    manifest = frame.parse_json(frame.unsqueeze(packed, (4 << 20) + 32 * len(packed), "manifest"), "manifest")
    parts = {k: _expect(manifest, k, dict) for k in ("codings", "layouts", "others", "info", "tensors")}
    pool = Reader(parts["tensors"], sections["data"])
    graph = sections.get("graph")
    return Package(
        codings={k: _at(k, _restore, entry, pool) for k, entry in parts["codings"].items()},
        layouts={k: _expect(parts["layouts"], k, dict) for k in parts["layouts"]},
        others={k: _at(k, pool.get, number) for k, number in parts["others"].items()},
        edits=[_expect({"an edit": e}, "an edit", dict) for e in _sink(_expect(manifest, "edits", list), pool)],
        graph=None if graph is None else frame.unsqueeze(graph, MAX_GRAPH, "graph"),
        info=parts["info"],
    )


def _describe(name: str, coding: Coding, pool: Writer) -> dict[str, Any]:
    _at(name, check_parts, coding.parts())
    _at(name, check_coding, coding)
    return {
        "kind": coding.kind,
        "settings": coding.settings(),
        "parts": {k: _at(name, pool.put, v) for k, v in sorted(coding.parts().items())},
    }


def _restore(entry: Any, pool: Reader) -> Coding:
    from . import coding_from_parts

    kind, settings, numbers = (_expect({"coding": entry}, "coding", dict).get(k) for k in ("kind", "settings", "parts"))
    if not isinstance(kind, str) or not isinstance(settings, dict) or not isinstance(numbers, dict):
        raise LessenError("a coding needs kind, settings and parts")
    parts = {k: _at(k, pool.get, number) for k, number in numbers.items()}
    check_parts(parts)
    try:
        coding = coding_from_parts(kind, parts, settings)
        check_coding(coding)
    except LessenError:
        raise
    except Exception as error:  # the codings trust their maker; here that is a stranger
        raise LessenError(f"parts and settings make no {kind} coding ({error})") from error
    return coding


def _lift(value: Any, pool: Writer) -> Any:
    """A copy of edits in which numbers stand for the tensors."""
    if isinstance(value, Tensor):
        return {_TENSOR: pool.put(value)}
    if isinstance(value, dict):
        if _TENSOR in value:
            raise LessenError(f"an edit can't have a key {_TENSOR!r}")
        return {k: _lift(value[k], pool) for k in sorted(value)}
    return [_lift(v, pool) for v in value] if isinstance(value, (list, tuple)) else value


def _sink(value: Any, pool: Reader, depth: int = 0) -> Any:
    """The inverse of `_lift`."""
    if depth > _MAX_DEPTH:
        raise LessenError("edits are nested too deep")
    if isinstance(value, dict):
        if set(value) == {_TENSOR}:
            return pool.get(value[_TENSOR])
        return {k: _sink(v, pool, depth + 1) for k, v in value.items()}
    return [_sink(v, pool, depth + 1) for v in value] if isinstance(value, list) else value


def _expect(owner: dict[str, Any], key: str, kind: type) -> Any:
    if not isinstance(owner.get(key), kind):
        raise LessenError(f"{key!r} is missing in the manifest, or not a {kind.__name__}")
    return owner[key]


def _at(name: str, call: Callable[..., Any], *args: Any) -> Any:
    """Call, and say in an error which tensor it was about."""
    try:
        return call(*args)
    except LessenError as error:
        raise LessenError(error.what, where=".".join(filter(None, (name, error.where))), mend=error.mend) from error
