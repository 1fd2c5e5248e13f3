"""`ExactOBS`: one weight at a time, the others moved after each; for small layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..codings import Sparse
from ..errors import LessenError
from ..models.layer import Layer
from ..statistics.brain_surgeon import best_values, removals
from ..statistics.fallback import fall_back
from ..statistics.problem import Problem, problem
from ..statistics.second_order import join
from ..statistics.statistics import Statistics
from .mask import check_sparsity, pruned, sparse, strongest
from .removal import tell_dampening

_LIMIT = 4e9  # rows * columns^3, some seconds on one core


@dataclass(frozen=True)
class ExactOBS:
    """Removes weights one at a time, always the one whose loss the others can best make up for, and moves those.

    Optimal Brain Surgeon (Hassibi & Stork 1992) for each output by itself, as in Frantar, Singh & Alistarh 2022
    (ExactOBS, https://arxiv.org/abs/2208.11580); how many weights each output loses is decided over the whole
    layer by what they cost. It takes rows * columns^3 steps: a layer of more than 4e9 (384 x 216, 64 x 396) is refused.
    Without a full second moment it is Wanda's criterion over the whole layer, without update.

    Args:
        sparsity: share of the layer's weights to remove, 0 <= s < 1; at least one stays.

    >>> ExactOBS(sparsity=0.5).encode(layer, statistics)  # doctest: +SKIP
    """

    sparsity: float = 0.5

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity, "ExactOBS")

    def encode(self, layer: Layer, statistics: Statistics) -> Sparse:
        """The survivors, updated; `LessenError` if the layer is too large or its weights aren't finite."""
        rows, columns = layer.shape
        if rows * float(columns) ** 3 > _LIMIT:
            raise LessenError(
                f"{rows} x {columns} weights would take {rows * float(columns) ** 3:.0e} steps, over {_LIMIT:.0e}",
                where=layer.name,
                mend="use OptimalBrain, which does all columns in one pass",
            )
        p = problem(layer, statistics)
        if p.H is None:
            fall_back(
                layer.name, "no second moment of its input: ranked by |w| sqrt(E[x^2]) (Wanda), survivors not updated"
            )
            return pruned(layer, join(p.W.square() * p.diagonal[:, :, None]), self.sparsity)
        tell_dampening(layer, statistics)
        scores = torch.cat([_lateness(p, g) for g in range(p.groups)])
        mask = strongest(scores.flatten(), self.sparsity).reshape(layer.shape)
        mask = mask if layer.mask is None else mask & layer.mask
        values = [best_values(p.W[g].T, p.H[g], mask.chunk(p.groups)[g]) for g in range(p.groups)]
        return sparse(torch.cat(values), mask)

    @classmethod
    def offers(cls) -> tuple[ExactOBS, ...]:
        """Nothing: it takes too long to try on every layer; it is there for those who ask."""
        return ()


def _lateness(p: Problem, group: int) -> Tensor:
    """For each weight of a group, [rows, columns], the highest cost that its output must bear until it goes.

    To take the lowest of all outputs' weights by it is to always take the cheapest next one.
    """
    assert p.H is not None
    keep = None if p.keep is None else p.keep[group].T.bool()
    order, costs = removals(p.W[group].T, p.H[group], keep)
    highest = costs.cummax(1).values * p.G_split[group, 0, :, None]
    return torch.empty_like(highest).scatter_(1, order, highest)
