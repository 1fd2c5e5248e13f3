"""`Grid`: evenly spaced levels, value = (code - zero_point) * scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import LessenError


@dataclass(frozen=True, eq=False)
class Grid:
    """Uniform quantization of a matrix.

    Args:
        codes: integers [rows, columns], int8 (or int16 for more than 8 bits).
        scale: float32 [1, 1] (per tensor), [rows, 1] (per channel) or [rows, n] (n groups of consecutive columns).
        zero_point: integers in the shape of `scale`; 0 everywhere for a symmetric grid.
        bits: 1 to 16; codes lie in [-2^(bits-1), 2^(bits-1) - 1].
        odd: codes are the odd numbers from 1 - 2^bits to 2^bits - 1 instead, two of `scale` apart, so that zero may lie
            half way between two levels (zero point 0) as well as on one (odd zero points). A pruned weight has its zero
            point for a code, even or odd.
    """

    kind: ClassVar[str] = "grid"
    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    bits: int
    odd: bool = False

    def __post_init__(self) -> None:
        rows, columns = self.shape
        fits = self.scale.ndim == 2 and self.scale.shape[0] in (1, rows) and 1 <= self.scale.shape[1] <= max(columns, 1)
        if not fits or self.zero_point.shape != self.scale.shape or not 1 <= self.bits <= 16:
            raise LessenError(
                f"a Grid of {self.bits} bits with codes {tuple(self.codes.shape)}, scale {tuple(self.scale.shape)}, "
                f"zero point {tuple(self.zero_point.shape)} does not fit together"
            )
        if self.codes.numel() and columns % self.scale.shape[1]:
            raise LessenError(f"{columns} columns can't be cut into {self.scale.shape[1]} equal groups")

    @property
    def shape(self) -> tuple[int, int]:
        return (self.codes.shape[0], self.codes.shape[1])

    @property
    def group_size(self) -> int:
        """Columns that share one scale; all of them when per channel or per tensor."""
        return self.shape[1] // self.scale.shape[1]

    @property
    def ends(self) -> tuple[int, int]:
        """Least and greatest code."""
        half = 1 << self.bits - 1
        return (1 - 2 * half, 2 * half - 1) if self.odd else (-half, half - 1)

    @property
    def symmetric(self) -> bool:
        return not bool(self.zero_point.any())

    def decode(self) -> Tensor:
        rows, columns = self.shape
        grouped = self.codes.reshape(rows, self.scale.shape[1], -1).float()
        values = grouped.sub_(self.zero_point.float()[..., None]).mul_(self.scale.float()[..., None])
        return values.reshape(rows, columns)

    def parts(self) -> dict[str, Tensor]:
        zero = {} if self.symmetric else {"zero_point": self.zero_point}
        return {"codes": self.codes, "scale": self.scale, **zero}

    def settings(self) -> dict[str, Any]:
        return {"bits": self.bits, **({"odd": True} if self.odd else {})}

    @classmethod
    def from_parts(cls, parts: dict[str, Tensor], settings: dict[str, Any]) -> Grid:
        scale = parts["scale"]
        zero = parts.get("zero_point", torch.zeros(scale.shape, dtype=torch.int16))
        return cls(parts["codes"], scale, zero, int(settings["bits"]), bool(settings.get("odd")))


def odd_(x: Tensor) -> Tensor:
    """The nearest odd numbers, in place."""
    return x.mul_(0.5).floor_().mul_(2).add_(1)
