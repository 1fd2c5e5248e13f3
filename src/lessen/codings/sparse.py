"""`Sparse`: a mask and the float values that survive it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import LessenError


@dataclass(frozen=True, eq=False)
class Sparse:
    """Single weights removed, the survivors in float.

    Args:
        mask: bool [rows, columns], True where a weight survives.
        values: float32 or float16 [number of survivors], in row-major order.

    A quantized sparse weight needs no `Sparse`: it is a `Grid` or `Codebook` with many zeros, which an
    entropy coder stores in as few bits as a separate mask.
    """

    kind: ClassVar[str] = "sparse"
    mask: Tensor
    values: Tensor

    def __post_init__(self) -> None:
        if self.mask.dtype != torch.bool or self.mask.ndim != 2 or self.values.shape != (int(self.mask.sum()),):
            raise LessenError(f"{tuple(self.values.shape)} values don't fit a mask of {int(self.mask.sum())} survivors")

    @property
    def shape(self) -> tuple[int, int]:
        return (self.mask.shape[0], self.mask.shape[1])

    def decode(self) -> Tensor:
        dense = torch.zeros(self.shape)
        dense[self.mask] = self.values.float()
        return dense

    def parts(self) -> dict[str, Tensor]:
        return {"mask": self.mask, "values": self.values}

    def settings(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_parts(cls, parts: dict[str, Tensor], settings: dict[str, Any]) -> Sparse:
        return cls(parts["mask"].bool(), parts["values"])
