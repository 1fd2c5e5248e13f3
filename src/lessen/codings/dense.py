"""`Dense`: the weight as it is, in float32 or float16."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import LessenError

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class Dense:
    """A float matrix [rows, columns], stored in its own dtype (float32, float16, bfloat16)."""

    kind: ClassVar[str] = "dense"
    values: Tensor

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.dtype not in _FLOATS:
            raise LessenError(f"Dense holds a float matrix, not {self.values.dtype} {tuple(self.values.shape)}")

    @property
    def shape(self) -> tuple[int, int]:
        return (self.values.shape[0], self.values.shape[1])

    def decode(self) -> Tensor:
        return self.values.float()

    def parts(self) -> dict[str, Tensor]:
        return {"values": self.values}

    def settings(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_parts(cls, parts: dict[str, Tensor], settings: dict[str, Any]) -> Dense:
        return cls(parts["values"])
