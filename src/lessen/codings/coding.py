"""What a coding is: one way to hold one weight, seen as a matrix."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Coding(Protocol):
    """One way to hold a weight matrix (rows = outputs, columns = inputs x kernel positions).

    A coding is made of `parts` (tensors, what is stored) and `settings` (plain JSON values).
    Together they determine `decode()` to the bit.
    """

    kind: ClassVar[str]

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the decoded matrix."""
        ...

    def decode(self) -> Tensor:
        """The weight as a float32 matrix."""
        ...

    def parts(self) -> dict[str, Tensor]:
        """The tensors that are stored, by name."""
        ...

    def settings(self) -> dict[str, Any]:
        """What else is needed to decode: JSON values only."""
        ...

    @classmethod
    def from_parts(cls, parts: dict[str, Tensor], settings: dict[str, Any]) -> Coding:
        """The inverse of `parts` and `settings`; raises `LessenError` on anything that does not fit."""
        ...
