"""`NM`: n of every m neighbouring weights stay, the pattern that sparse hardware reads."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..codings import Sparse
from ..errors import LessenError
from ..models.layer import Layer
from ..statistics.problem import problem
from ..statistics.statistics import Statistics
from .removal import prune


@dataclass(frozen=True)
class NM:
    """Keeps n of every m consecutive columns of each row (2:4: Mishra et al. 2021, https://arxiv.org/abs/2104.08378).

    With `second_order` the pattern is chosen and the survivors updated as in `OptimalBrain`; else, and where the
    second moment is missing or singular, the largest |w_j| * sqrt(E[x_j^2]) stay.

    Args:
        n, m: 1 <= n < m; the layer's columns must divide by m.

    >>> NM(2, 4).encode(layer, statistics)  # doctest: +SKIP
    """

    n: int = 2
    m: int = 4
    second_order: bool = True

    def __post_init__(self) -> None:
        whole = all(isinstance(v, int) and not isinstance(v, bool) for v in (self.n, self.m))
        if not whole or not 1 <= self.n < self.m:
            raise LessenError(f"n={self.n!r}, m={self.m!r}", where="NM", mend="give 1 <= n < m, for instance 2 and 4")

    def encode(self, layer: Layer, statistics: Statistics) -> Sparse:
        """The survivors; `LessenError` if the columns can't be cut into groups of m or weights aren't finite."""
        if layer.shape[1] % self.m:
            raise LessenError(
                f"{layer.shape[1]} columns can't be cut into groups of {self.m}",
                where=layer.name,
                mend="leave this layer out, or use OptimalBrain",
            )
        p = problem(layer, statistics)
        p = p if self.second_order else replace(p, H=None)
        return prune(p, self._choose, self.m, steps=4)

    def _choose(self, scores: Tensor) -> Tensor:
        """The n highest of each m along the columns of scores [groups, columns, rows]."""
        g, c, r = scores.shape
        grouped = scores.reshape(g, c // self.m, self.m, r)
        best = grouped.argsort(dim=2, descending=True, stable=True)[:, :, : self.n]
        return torch.zeros_like(grouped).scatter_(2, best, 1.0).reshape(g, c, r)

    @classmethod
    def offers(cls) -> tuple[NM, ...]:
        """The patterns that hardware knows."""
        return (cls(2, 4), cls(4, 8), cls(1, 4))
