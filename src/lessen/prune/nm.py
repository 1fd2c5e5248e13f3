"""`NM`: n of every m neighbouring weights stay, the pattern that sparse hardware reads."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..codings import Sparse
from ..errors import LessenError
from ..models.layer import Layer
from ..statistics.problem import Problem, problem
from ..statistics.second_order import join
from ..statistics.statistics import Statistics
from .mask import sparse
from .permute import permutation
from .removal import plain, prune, tell_dampening

_STEPS = 3  # of conjugate gradients on the survivors


@dataclass(frozen=True)
class NM:
    """Keeps n of every m consecutive columns of each row (2:4: Mishra et al. 2021, https://arxiv.org/abs/2104.08378).

    With `second_order` the pattern is chosen and the survivors updated as in `OptimalBrain`; else, and where the
    second moment is missing or singular, the largest |w_j| * sqrt(E[x_j^2]) stay.

    With `permute` the columns are first put in an order in which the pattern costs less (Pool & Yu 2021), and back
    again afterwards: the layer computes the same sum, but in memory its zeros are n of m no more. Hardware that reads
    the pattern must then gather its inputs in that order, which no target here does; until one does it is only a mask.

    Args:
        n, m: 1 <= n < m; the layer's columns must divide by m.
        second_order: whether the survivors are updated.
        permute: whether neighbours are chosen.

    >>> NM(2, 4).encode(layer, statistics)  # doctest: +SKIP
    """

    n: int = 2
    m: int = 4
    second_order: bool = True
    permute: bool = False

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
        order = self._order(p)
        made = self._pruned(p if order is None else _ordered(p, order), layer, statistics)
        if order is None:
            return made
        back = order.argsort()
        return sparse(made.decode()[:, back], made.mask[:, back])

    def _order(self, p: Problem) -> Tensor | None:
        return permutation(join(p.W.square() * p.diagonal[:, :, None]), self.n, self.m) if self.permute else None

    def _pruned(self, p: Problem, layer: Layer, statistics: Statistics) -> Sparse:
        if not self.second_order:
            return plain(p, self._choose)
        steps = _STEPS + (1 if tell_dampening(layer, statistics) else 0)
        return prune(p, self._choose, self.m, steps)

    def _choose(self, scores: Tensor) -> Tensor:
        """The n highest of each m along the columns of scores [groups, columns, rows]."""
        g, c, r = scores.shape
        grouped = scores.reshape(g, c // self.m, self.m, r)
        return torch.zeros_like(grouped).scatter_(2, grouped.topk(self.n, 2).indices, 1.0).reshape(g, c, r)

    @classmethod
    def offers(cls) -> tuple[NM, ...]:
        """The patterns that hardware knows."""
        return (cls(2, 4), cls(4, 8), cls(1, 4))


def _ordered(p: Problem, order: Tensor) -> Problem:
    """The same problem with its columns in another order."""
    H = None if p.H is None else p.H[:, order][:, :, order]
    keep = None if p.keep is None else p.keep[:, order]
    return replace(p, W=p.W[:, order], H=H, diagonal=p.diagonal[:, order], keep=keep, source=None)
