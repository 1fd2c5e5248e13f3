"""What a technique is: a frozen dataclass whose type is the algorithm's name."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol, runtime_checkable

from .codings import Coding
from .models.layer import Layer
from .statistics import Statistics


@runtime_checkable
class Technique(Protocol):
    """One algorithm with its options; another way to hold a layer's weight."""

    def encode(self, layer: Layer, statistics: Statistics) -> Coding:
        """The layer's weight held this way; raises `LessenError` naming the layer when that can't be."""
        ...

    @classmethod
    def offers(cls) -> tuple[Technique, ...]:
        """The settings worth trying when the chooser is free to choose."""
        ...


def describe(technique: Any) -> dict[str, Any]:
    """A technique as plain values: {"technique": "Uniform", "bits": 4}; only what differs from the defaults."""
    values: dict[str, Any] = {"technique": type(technique).__name__}
    for f in dataclasses.fields(technique):
        value = getattr(technique, f.name)
        if value != f.default:
            values[f.name] = describe_value(value)
    return values


def describe_value(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return describe(value)
    return [describe_value(v) for v in value] if isinstance(value, (tuple, list)) else value
