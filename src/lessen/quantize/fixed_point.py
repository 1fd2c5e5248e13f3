"""`FixedPoint`: Qm.n numbers; every step is a power of two, so that rescaling is a shift."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..codings import Grid
from ..errors import LessenError
from ..models.layer import Layer
from ..statistics.problem import Problem, fed_back, problem
from ..statistics.statistics import Statistics
from .scale import levels, unclipped
from .table import check_per, check_whole, group_size
from .uniform import _Levels, _strips

_ROUNDING = ("feedback", "nearest", "floor")


@dataclass(frozen=True)
class FixedPoint:
    """Fixed point with a binary point chosen for each tensor (or channel): a grid whose steps are powers of two.

    The finest step that clips nothing, or, where saturating costs less than coarse steps (squared error weighted by
    the input's second moment), one up to three bits finer.

    Args:
        bits: 2 to 16, with the sign.
        per: one binary point for the whole "tensor", for each output "channel", or for groups of columns.
        fraction: bits after the point (n of Qm.n) for all; None chooses.
        rounding: "feedback" (column by column, as GPTQ), "nearest", or "floor" (what a bare shift does).
        saturate: False never clips; a given `fraction` that would is then an error.

    >>> FixedPoint(bits=8).encode(layer, statistics)  # doctest: +SKIP
    """

    bits: int = 8
    per: str | int = "tensor"
    fraction: int | None = None
    rounding: str = "feedback"
    saturate: bool = True

    def __post_init__(self) -> None:
        check_whole("FixedPoint", "bits", self.bits, 2, 16)
        check_per("FixedPoint", self.per)
        if self.fraction is not None:
            check_whole("FixedPoint", "fraction", self.fraction, -64, 64)
        if self.rounding not in _ROUNDING:
            mend = f"give one of {', '.join(_ROUNDING)}"
            raise LessenError(f"rounding={self.rounding!r}", where="FixedPoint", mend=mend)

    def encode(self, layer: Layer, statistics: Statistics) -> Grid:
        """The layer's weight in fixed point.

        Raises:
            LessenError: groups don't divide its columns, it isn't finite, or it overflows and must not saturate.
        """
        p = problem(layer, statistics)
        size = group_size(layer, self.per)
        values, weights = _strips(p, self.per, size)
        steps = self._steps(layer, values, weights)
        grid = _Shifts.of(p, self.per, size, (steps, torch.zeros_like(steps)), self.bits)
        return grid.coding(self._rounded(p, grid), self.bits)

    def _rounded(self, p: Problem, grid: _Levels) -> Tensor:
        if self.rounding == "floor":
            return _floored(p, grid)
        Q = grid.nearest(p.W)
        if self.rounding == "nearest" or p.H is None:
            return Q
        back = fed_back(p, grid.rounding)
        return grid.improve(p, back if back is not None and p.no_worse(back, Q) else Q, 1)

    def _steps(self, layer: Layer, values: Tensor, weights: Tensor) -> Tensor:
        """Step of each row of `values`, float32 powers of two."""
        least = unclipped(values, self.bits, True)[0]
        safe = torch.exp2(least.log2().ceil().clamp(-126, 127))
        safe = torch.where(values.abs().amax(1) > 0, safe, torch.full_like(safe, 2.0 ** (1 - self.bits)))
        if self.fraction is None:
            return _cheapest(values, weights, safe, self.bits) if self.saturate else safe
        step = torch.full_like(safe, 2.0**-self.fraction)
        if not self.saturate and bool((least > step).any()):
            most = float(values.abs().max())
            raise LessenError(
                f"a weight of {most:.4g} overflows {self.bits} bits with {self.fraction} after the point",
                where=layer.name,
                mend="give fewer fraction bits, or fraction=None",
            )
        return step

    @classmethod
    def offers(cls) -> tuple[FixedPoint, ...]:
        """Eight bits, one point a channel."""
        return (cls(8, "channel"),)


def _cheapest(values: Tensor, weights: Tensor, safe: Tensor, bits: int) -> Tensor:
    """Of the safe step and three finer ones, the one with the least weighted squared error."""
    low, high = levels(bits)
    best, chosen = torch.full_like(safe, torch.inf), safe
    for step in (safe, safe / 2, safe / 4, safe / 8):
        s = step.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
        error = (((values / s).round().clamp(low, high) * s - values).square() * weights).sum(1)
        chosen, best = torch.where(error < best, s[:, 0], chosen), torch.minimum(error, best)
    return chosen


def _floored(p: Problem, grid: _Levels) -> Tensor:
    """Every weight to the level below it."""
    step, low, high = grid.scale, grid.low, grid.high
    if step.shape[1] > 1:
        step, low, high = (t.repeat_interleave(grid.size, 1) for t in (step, low, high))
    Q = torch.minimum(torch.maximum((p.W / step).floor_(), low), high).mul_(step)
    return Q if p.keep is None else Q * p.keep


@dataclass(eq=False)
class _Shifts(_Levels):
    """A grid whose steps stay powers of two."""

    def _refit(self, p: Problem, Q: Tensor, F: Tensor, whole: Tensor | None) -> None:
        """They stay."""
