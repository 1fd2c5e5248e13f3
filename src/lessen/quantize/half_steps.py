"""`HalfSteps`: evenly spaced levels, zero on one of them or half way between two."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..codings import Grid
from ..models.layer import Layer
from ..statistics.statistics import Statistics
from .table import How, check_per, check_whole, on_table
from .uniform import Uniform


@dataclass(frozen=True)
class HalfSteps:
    """Uniform quantization with zero points of whole and of half steps, each row's the one that does less harm.

    Of four levels around a level at zero one side has one more than the other; -1.5, -0.5, 0.5 and 1.5 steps waste
    none: a fifth less error on a Gaussian (Max 1960, table II), and networks train better on them (Liu et al. 2025,
    ParetoQ, https://arxiv.org/abs/2502.02631). Rows of few weights are better off with their zero. Runtimes see
    integers of a half step, as in any `Grid`. What was pruned stays 0.

    Args:
        bits: 2 to 4; with 3 a twentieth is gained, with 4 next to nothing.
        per: one step for each output "channel", for the whole "tensor", or for groups of this many columns.
        feedback: False rounds to nearest.

    >>> HalfSteps(bits=2).encode(layer, statistics)  # doctest: +SKIP
    """

    bits: int = 2
    per: str | int = "channel"
    feedback: bool = True

    def __post_init__(self) -> None:
        check_whole("HalfSteps", "bits", self.bits, 2, 4)
        check_per("HalfSteps", self.per)

    def encode(self, layer: Layer, statistics: Statistics) -> Grid:
        """The layer's weight on an odd grid; `LessenError` if groups don't divide its columns or it isn't finite."""
        on = _in_half_steps(
            Uniform(self.bits, self.per, symmetric=False, feedback=self.feedback).encode(layer, statistics)
        )
        between = self._between(layer, statistics)
        harm = [_harm_of_rows(layer.matrix - grid.decode(), statistics) for grid in (on, between)]
        if on.scale.shape[0] < len(layer.matrix):  # one step for all rows
            harm = [h.sum(0, keepdim=True) for h in harm]
        return _either(harm[0] <= harm[1], on, between)

    def _between(self, layer: Layer, statistics: Statistics) -> Grid:
        """Every zero half way between two levels."""
        most = (1 << self.bits) - 1
        made = on_table(layer, statistics, torch.arange(-most, most + 1, 2.0), How(self.per, False, self.feedback))
        codes = made.indices.to(torch.int8) * 2 - most
        codes = codes if layer.mask is None else codes * layer.mask
        return Grid(codes, made.scale, torch.zeros(made.scale.shape, dtype=torch.int16), self.bits, odd=True)

    @classmethod
    def offers(cls) -> tuple[HalfSteps, ...]:
        """Nothing: training at two bits starts from it, and it is tried where it is named."""
        return ()


def _in_half_steps(grid: Grid) -> Grid:
    """The same values as an odd grid."""
    return Grid(grid.codes * 2 + 1, grid.scale / 2, grid.zero_point * 2 + 1, grid.bits, odd=True)


def _harm_of_rows(delta: Tensor, statistics: Statistics) -> Tensor:
    """G d H dT of each row d of [rows, columns]."""
    diagonal = statistics.diagonal(delta.shape[1])
    split = delta.reshape(diagonal.shape[0], -1, delta.shape[1])
    moved = split * diagonal[:, None] if statistics.full is None else split @ statistics.full
    return (moved * split).sum(2).flatten() * statistics.row_weights(len(delta))


def _either(first: Tensor, one: Grid, other: Grid) -> Grid:
    """The rows of one grid where `first` [rows] or [1], else those of the other."""
    which = first[:, None]
    codes, scale, zero = (
        torch.where(which, a, b)
        for a, b in ((one.codes, other.codes), (one.scale, other.scale), (one.zero_point, other.zero_point))
    )
    return Grid(codes, scale, zero, one.bits, odd=True)
