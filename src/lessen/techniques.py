"""Every technique there is, found by its type's name; the one place where a name becomes a type."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from . import factorize, prune, quantize, share, stack, train
from .errors import LessenError, did_you_mean
from .prune.channels import Channels
from .prune.depth import Depth
from .refold import REFOLDS
from .technique import Technique


def known() -> dict[str, type]:
    """Name -> type of every technique that the packages export."""
    found: dict[str, type] = {"Channels": Channels, "Depth": Depth}
    for package in (quantize, prune, share, factorize, stack):
        for name in package.__all__:
            member: Any = getattr(package, name)
            if hasattr(member, "__dataclass_fields__") and hasattr(member, "encode"):
                found[name] = member
    return found


def trainings() -> dict[str, type]:
    """Name -> type of every method that trains the network: tried only where it is named and there is training data."""
    return {n: m for n in train.__all__ if hasattr(m := getattr(train, n), "fit") and hasattr(m, "__dataclass_fields__")
            and m is not train.Sparsifier}  # fmt: skip


def refolds() -> dict[str, type]:
    """Name -> type of what changes weights, not what is computed, before they are coded: tried where it is named."""
    return {t.__name__: t for t in REFOLDS}


def named(names: str | Technique | type | Iterable[str | Technique | type] | None) -> tuple[Any, ...]:
    """What `--using` asks for: "uniform,kmeans", techniques, or one; None: all that offer something, but `Depth`."""
    if names is None:
        return tuple(t for t in known().values() if t.offers() and t is not Depth)  # type: ignore[attr-defined]
    names = names.split(",") if isinstance(names, str) else names if isinstance(names, Iterable) else (names,)
    words = [w for w in (w.strip() if isinstance(w, str) else w for w in names) if w != ""]
    if not words:
        raise LessenError("no technique is named", where="--using", mend=did_you_mean("", known()))
    return tuple(_one(w) if isinstance(w, str) else _technique(w) for w in words)


def _technique(given: Any) -> Any:
    kind = given if isinstance(given, type) else type(given)
    if kind not in (*known().values(), *REFOLDS) and not hasattr(kind, "encode") and not hasattr(kind, "fit"):
        raise LessenError(
            f"{given!r} is not a technique", where="--using", mend="give types or instances: Uniform, Uniform(bits=4)"
        )
    return given


def _one(word: str) -> type:
    every = known() | trainings() | refolds()
    types = {name.lower(): t for name, t in every.items()}
    if word.lower() not in types:
        raise LessenError(f"unknown technique {word!r}", where="--using", mend=did_you_mean(word, every))
    return types[word.lower()]


def build(values: dict[str, Any], where: str = "plan") -> Any:
    """The inverse of `technique.describe`: {"technique": "Uniform", "bits": 4} -> Uniform(bits=4)."""
    name = values.get("technique")
    types = known() | trainings() | refolds() | {"AsTrained": train.AsTrained}
    if not isinstance(name, str) or name not in types:
        raise LessenError(f"unknown technique {name!r}", where=where, mend=did_you_mean(str(name), types))
    fields = {f.name: f for f in dataclasses.fields(types[name])}
    options = {k: v for k, v in values.items() if k != "technique"}
    for key in options:
        if key not in fields:
            raise LessenError(f"{name} has no option {key!r}", where=where, mend=did_you_mean(key, fields))
    made = {k: _value(v, where) for k, v in options.items()}
    try:
        return types[name](**made)
    except LessenError as error:
        raise LessenError(error.what, where=where, mend=error.mend) from error
    except (TypeError, ValueError) as error:
        raise LessenError(f"{name} does not take {options}: {error}", where=where) from error


def _value(value: Any, where: str) -> Any:
    if isinstance(value, dict) and "technique" in value:
        return build(value, where)
    return tuple(_value(v, where) for v in value) if isinstance(value, list) else value
