"""`Codebook`: every weight is an index into a short table of shared values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..errors import LessenError


@dataclass(frozen=True, eq=False)
class Codebook:
    """Weight sharing: value = centroids[index].

    Args:
        indices: uint8 [rows, columns].
        centroids: float32 [1, K] (one table a tensor) or [rows, K] (one a row), K at most 256.
    """

    kind: ClassVar[str] = "codebook"
    indices: Tensor
    centroids: Tensor

    def __post_init__(self) -> None:
        k = self.centroids.shape[-1] if self.centroids.ndim == 2 else 0
        if not 1 <= k <= 256 or self.centroids.shape[0] not in (1, self.indices.shape[0]):
            raise LessenError(f"centroids {tuple(self.centroids.shape)} don't fit indices {tuple(self.indices.shape)}")
        if self.indices.numel() and int(self.indices.max()) >= k:
            raise LessenError(f"index {int(self.indices.max())} is outside a table of {k}")

    @property
    def shape(self) -> tuple[int, int]:
        return (self.indices.shape[0], self.indices.shape[1])

    def decode(self) -> Tensor:
        table = self.centroids.float().expand(self.shape[0], -1)
        return table.gather(1, self.indices.long())

    def parts(self) -> dict[str, Tensor]:
        return {"indices": self.indices, "centroids": self.centroids}

    def settings(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_parts(cls, parts: dict[str, Tensor], settings: dict[str, Any]) -> Codebook:
        return cls(parts["indices"], parts["centroids"])
