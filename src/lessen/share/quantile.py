"""`Quantile`: shared values that are all used equally often."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..codings import Codebook
from ..errors import LessenError
from ..models.layer import Layer
from ..statistics.problem import problem
from ..statistics.statistics import Statistics
from .kmeans import _Table


def equal_mass(values: Tensor, bins: int) -> Tensor:
    """Mean of each of `bins` runs, of equal length, of the sorted values [n, m]; float32 [n, bins] ascending."""
    ordered = values.double().sort(dim=1).values
    edges = torch.arange(bins + 1) * values.shape[1] // bins
    sums = torch.nn.functional.pad(ordered.cumsum(1), (1, 0))[:, edges]
    count = edges.diff()
    middle = ordered[:, edges[:-1].clamp_max(values.shape[1] - 1)]  # of a run that is empty: fewer values than bins
    return torch.where(count > 0, sums.diff(dim=1) / count.clamp_min(1), middle).float().sort(dim=1).values


@dataclass(frozen=True)
class Quantile:
    """Weight sharing by percentiles: bins of equal mass, each held as its mean; a weight takes the nearest.

    Every index is about as frequent as any other, so the entropy of the indices is close to log2(clusters): what
    suits a file without an entropy coder (quantile quantization: Dettmers et al. 2022,
    https://arxiv.org/abs/2110.02861). `KMeans` has the smaller error.

    Args:
        clusters: 2 to 256 shared values.
        per: one table for the whole "tensor" or for each output "channel".

    >>> Quantile(clusters=16).encode(layer, statistics)  # doctest: +SKIP
    """

    clusters: int = 16
    per: str = "tensor"

    def __post_init__(self) -> None:
        if not isinstance(self.clusters, int) or isinstance(self.clusters, bool) or not 2 <= self.clusters <= 256:
            raise LessenError(f"clusters={self.clusters!r}", where="Quantile", mend="give 2 to 256 clusters")
        if self.per not in ("tensor", "channel"):
            raise LessenError(f"per={self.per!r}", where="Quantile", mend='give "tensor" or "channel"')

    def encode(self, layer: Layer, statistics: Statistics) -> Codebook:
        """The layer's weight as a codebook; with a mask, one of the shared values is exactly zero."""
        p = problem(layer, statistics)
        table = _Table(self._centroids(p.matrix, layer.mask), p)
        return table.coding(table.nearest(p.W))

    def _centroids(self, matrix: Tensor, mask: Tensor | None) -> Tensor:
        """[1 or rows, K] ascending."""
        rows = [None] if self.per == "tensor" else range(len(matrix))
        if mask is None:
            return equal_mass(matrix.reshape(len(rows), -1), self.clusters)
        live = [matrix[r][mask[r]] if r is not None else matrix[mask] for r in rows]
        found = [equal_mass((v if len(v) else v.new_zeros(1))[None], self.clusters - 1) for v in live]
        return torch.cat([torch.cat(found), matrix.new_zeros(len(found), 1)], 1).sort(dim=1).values

    @classmethod
    def offers(cls) -> tuple[Quantile, ...]:
        """Sixteen values."""
        return (cls(),)
