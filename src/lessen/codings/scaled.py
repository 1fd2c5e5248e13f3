"""`ScaledCodebook`: every weight is an index into one short table, times the scale of its group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..errors import LessenError


@dataclass(frozen=True, eq=False)
class ScaledCodebook:
    """Non-uniform levels of a fixed form (NF4, FP4, FP8, powers of two): value = centroids[index] * scale.

    Args:
        indices: uint8 [rows, columns].
        centroids: float32 [1, K], K at most 256.
        scale: float32 [1, 1] (per tensor), [rows, 1] (per channel) or [rows, n] (n groups of consecutive columns).
    """

    kind: ClassVar[str] = "scaled"
    indices: Tensor
    centroids: Tensor
    scale: Tensor

    def __post_init__(self) -> None:
        k = self.centroids.shape[1] if self.centroids.ndim == 2 and len(self.centroids) == 1 else 0
        rows, columns = self.shape
        fits = self.scale.ndim == 2 and self.scale.shape[0] in (1, rows) and 1 <= self.scale.shape[1] <= max(columns, 1)
        if not 1 <= k <= 256 or not fits:
            raise LessenError(
                f"a table {tuple(self.centroids.shape)} and scale {tuple(self.scale.shape)} "
                f"don't fit indices {tuple(self.indices.shape)}"
            )
        if columns % self.scale.shape[1]:
            raise LessenError(f"{columns} columns can't be cut into {self.scale.shape[1]} equal groups")
        if self.indices.numel() and int(self.indices.max()) >= k:
            raise LessenError(f"index {int(self.indices.max())} is outside a table of {k}")

    @property
    def shape(self) -> tuple[int, int]:
        return (self.indices.shape[0], self.indices.shape[1])

    @property
    def group_size(self) -> int:
        """Columns that share one scale; all of them when per channel or per tensor."""
        return self.shape[1] // self.scale.shape[1]

    def decode(self) -> Tensor:
        rows, columns = self.shape
        values = self.centroids.float()[0][self.indices.long()]
        grouped = values.reshape(rows, self.scale.shape[1], self.group_size)
        return (grouped * self.scale.float()[..., None]).reshape(rows, columns)

    def parts(self) -> dict[str, Tensor]:
        return {"indices": self.indices, "centroids": self.centroids, "scale": self.scale}

    def settings(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_parts(cls, parts: dict[str, Tensor], settings: dict[str, Any]) -> ScaledCodebook:
        return cls(parts["indices"], parts["centroids"], parts["scale"])
