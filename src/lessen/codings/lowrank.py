"""`LowRank`: the weight as a product of two thinner ones, each with a coding of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..errors import LessenError
from .coding import Coding


@dataclass(frozen=True, eq=False)
class LowRank:
    """W = left @ right, left [rows, rank], right [rank, columns]: two layers in the exported file."""

    kind: ClassVar[str] = "lowrank"
    left: Coding
    right: Coding

    def __post_init__(self) -> None:
        if self.left.shape[1] != self.right.shape[0]:
            raise LessenError(f"factors {self.left.shape} and {self.right.shape} don't multiply")

    @property
    def rank(self) -> int:
        return self.right.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        return (self.left.shape[0], self.right.shape[1])

    def decode(self) -> Tensor:
        return self.left.decode() @ self.right.decode()

    def parts(self) -> dict[str, Tensor]:
        return {f"{side}.{k}": v for side, c in self._sides() for k, v in c.parts().items()}

    def settings(self) -> dict[str, Any]:
        return {side: {"kind": c.kind, **c.settings()} for side, c in self._sides()}

    def _sides(self) -> tuple[tuple[str, Coding], tuple[str, Coding]]:
        return (("left", self.left), ("right", self.right))

    @classmethod
    def from_parts(cls, parts: dict[str, Tensor], settings: dict[str, Any]) -> LowRank:
        from . import coding_from_parts

        sides = {}
        for side in ("left", "right"):
            own = {k.split(".", 1)[1]: v for k, v in parts.items() if k.startswith(side + ".")}
            rest = {k: v for k, v in settings[side].items() if k != "kind"}
            sides[side] = coding_from_parts(settings[side]["kind"], own, rest)
        return cls(**sides)
