"""Frozen dataclasses to plain JSON values and back; and files that are written whole or not at all."""

from __future__ import annotations

import dataclasses
import math
import os
import tempfile
import types
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from lessen.errors import LessenError

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """Dataclasses become dicts, tuples become lists, numbers that JSON can't hold (NaN, Inf) become None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def from_plain(kind: type[T], value: Any, where: str = "") -> T:
    """Build dataclass `kind` from a dict: unknown keys are ignored, missing ones take their default.

    Raises:
        LessenError: a key without default is missing or a value has the wrong type; `where` leads to it.
    """
    if not isinstance(value, dict):
        raise _wrong(value, "an object", where)
    hints = get_type_hints(kind)
    found = {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        place = f"{where}.{field.name}" if where else field.name
        if field.name in value:
            found[field.name] = _read(hints[field.name], value[field.name], place)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise LessenError("missing", where=place, mend="the file was not written by this version of lessen")
    return kind(**found)


def _read(hint: Any, value: Any, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _read_union(args, value, where)
    if origin is tuple:
        return _read_list(args[0], value, where)
    if origin is dict:
        return _read_dict(args[1], value, where)
    if dataclasses.is_dataclass(hint):
        return from_plain(hint, value, where)  # type: ignore[arg-type]
    return _read_scalar(hint, value, where)


def _read_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in options:
        return None
    kinds = [option for option in options if option is not type(None)]
    if len(kinds) > 1:  # str | int | float: whatever scalar it is
        if not isinstance(value, tuple(kinds)):
            raise _wrong(value, "a text or a number", where)
        return value
    return _read(kinds[0], value, where)


def _read_list(kind: Any, value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise _wrong(value, "a list", where)
    return tuple(_read(kind, item, f"{where}[{i}]") for i, item in enumerate(value))


def _read_dict(kind: Any, value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _wrong(value, "an object", where)
    return {key: _read(kind, item, f"{where}.{key}") for key, item in value.items()}


def _read_scalar(kind: Any, value: Any, where: str) -> Any:
    if kind is float and value is None:
        return math.nan  # how to_plain writes a number that JSON can't hold
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _wrong(value, {str: "a text", bool: "true or false"}.get(kind, "a number"), where)
    return value


def _wrong(value: Any, expected: str, where: str) -> LessenError:
    return LessenError(f"expected {expected}, got {str(value)[:40]!r}", where=where or "the report")


def write_whole(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8 beside `path`, then move it there: a reader never sees half a file.

    Raises:
        LessenError: the folder is missing or can't be written, or the disk is full; an existing file is left as it was.
    """
    path = Path(path)
    scratch = None
    try:
        with tempfile.NamedTemporaryFile("wb", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            scratch = Path(file.name)
            file.write(text.encode("utf-8", "backslashreplace"))  # a lone surrogate in a layer name must not stop us
            file.flush()
            os.fsync(file.fileno())
        scratch.chmod(0o666 & ~_umask())  # NamedTemporaryFile makes private files
        scratch.replace(path)
    except OSError as error:
        mend = "free some space or choose another folder with --out"
        raise LessenError(f"can't be written ({error.strerror or error})", where=str(path), mend=mend) from error
    finally:
        if scratch is not None:
            scratch.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
