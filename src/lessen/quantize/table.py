"""Weights on a fixed table times a scale: the kernel under `NormalFloat`, `LowFloat` and `PowerOfTwo`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..codings import ScaledCodebook
from ..errors import LessenError
from ..models.layer import Layer
from ..statistics.problem import Problem, fed_back, problem
from ..statistics.second_order import Rounding, join
from ..statistics.statistics import Statistics
from .scale import _chunks
from .uniform import _Levels, _stored, _strips

_CLIPS = tuple(0.9**i for i in range(12))
_FINE = (0.96, 0.98, 1.0, 1.02, 1.04)
_DAMP = {4: 0.02, 8: 0.004}  # by the number of levels, as for uniform grids


def on_table(layer: Layer, statistics: Statistics, table: Tensor, how: How) -> ScaledCodebook:
    """The layer's weight on `table` (float32 [K], ascending, with a zero) times the best scales.

    Scales minimise the squared error weighted by the input's second moment; with feedback values are then rounded
    column by column as in GPTQ and improved by coordinate descent. Never worse than rounding to nearest.

    Raises:
        LessenError: groups don't divide the columns, or the weights aren't finite.
    """
    p = problem(layer, statistics)
    size = group_size(layer, how.per)
    values, weights = _strips(p, how.per, size)
    found = _Scaled.made(p, how, size, fit_table(values, weights, table, how.powers), table)
    Q = found.nearest(p.W)
    if how.feedback and p.H is not None:
        back = fed_back(p, found.rounding, _DAMP.get(1 << math.ceil(math.log2(len(table))), 0.0))
        Q = back if back is not None and p.no_worse(back, Q) else Q
        Q = found.improve(p, Q, 1)
    return found.as_codebook(Q)


@dataclass(frozen=True)
class How:
    """Options of `on_table`: what shares a scale, whether scales are powers of two, whether errors are fed back."""

    per: str | int
    powers: bool
    feedback: bool


def check_per(name: str, per: object) -> None:
    """`LessenError` unless `per` says what shares a scale."""
    if per not in ("channel", "tensor") and not (isinstance(per, int) and not isinstance(per, bool) and per > 0):
        mend = 'give "channel", "tensor", or columns per group (32, 64)'
        raise LessenError(f"per={per!r}", where=name, mend=mend)


def check_whole(name: str, option: str, value: object, low: int, high: int) -> None:
    """`LessenError` unless `value` is a whole number from `low` to `high`."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise LessenError(f"{option}={value!r}", where=name, mend=f"give {low} to {high}")


def group_size(layer: Layer, per: str | int) -> int:
    """Columns that share one scale; `LessenError` naming the layer if they don't divide its columns."""
    columns = layer.shape[1]
    if isinstance(per, str):
        return columns
    if columns % per:
        raise LessenError(
            f"{columns} columns can't be cut into groups of {per}", where=layer.name, mend='use per="channel"'
        )
    return per


def fit_table(values: Tensor, weights: Tensor, table: Tensor, powers: bool = False) -> Tensor:
    """Scale of each row of `values` [n, m] that minimises sum_j weights_j (v_j - nearest(table * scale))^2.

    Args:
        weights: float [n, m] or [1, m], not negative.
        powers: only whole powers of two.

    Returns:
        float32 [n], above 0.
    """
    fit = _fit_power if powers else _fit
    return torch.cat([fit(v, w, table) for v, w in _chunks(values, weights)])


def _full(v: Tensor, table: Tensor) -> Tensor:
    """The least scale that clips nothing."""
    full = torch.maximum(v.amax(1) / table[-1], v.amin(1) / table[0])
    return torch.where(full > 0, full, torch.ones_like(full)).clamp_min(torch.finfo(torch.float32).tiny)


def _fit(v: Tensor, w: Tensor, table: Tensor) -> Tensor:
    scale = _full(v, table)
    for factors in (_CLIPS, _FINE):
        scale = _best(v, w, table, [scale * f for f in factors])
    for _ in range(2):
        level = snapped(v / scale[:, None], table)
        step = (w * level * v).sum(1) / (w * level * level).sum(1).clamp_min(1e-30)
        scale = torch.where((step > 1e-30) & torch.isfinite(step), step, scale)
    return scale


def _fit_power(v: Tensor, w: Tensor, table: Tensor) -> Tensor:
    top = torch.exp2(_full(v, table).log2().ceil().clamp(-126, 127))
    return _best(v, w, table, [top * 0.5**i for i in range(4)])


def _best(v: Tensor, w: Tensor, table: Tensor, scales: list[Tensor]) -> Tensor:
    best, chosen = torch.full_like(scales[0], torch.inf), scales[0]
    for tried in scales:
        scale = tried.clamp_min(torch.finfo(torch.float32).tiny)
        error = ((snapped(v / scale[:, None], table) * scale[:, None] - v).square() * w).sum(1)
        chosen, best = torch.where(error < best, scale, chosen), torch.minimum(error, best)
    return chosen


def snapped(x: Tensor, table: Tensor) -> Tensor:
    """The nearest value of the table."""
    return table.take(rank(x, table))  # much faster than indexing


def rank(x: Tensor, table: Tensor) -> Tensor:
    """Index of the nearest value of the table (ascending)."""
    return torch.bucketize(x.contiguous(), (table[1:] + table[:-1]) / 2)


@dataclass(eq=False)
class _Scaled(_Levels):
    """A table with a scale each under work; steps and their refit are those of a grid."""

    table: Tensor
    fixed: bool

    @classmethod
    def made(cls, p: Problem, how: How, size: int, scale: Tensor, table: Tensor) -> _Scaled:
        base = _Levels.of(p, how.per, size, (scale, torch.zeros_like(scale)), 2)
        return cls(base.scale, base.zero, base.low, base.high, size, p.keep, base.shape, table, how.powers)

    def nearest(self, W: Tensor) -> Tensor:
        Q = self._snap(W, self._spread())
        return Q if self.keep is None else Q * self.keep

    def rounding(self, order: Tensor | None = None) -> Rounding:
        places = None if order is None else order.tolist()
        keep = self.keep if self.keep is None or order is None else self.keep[:, order]

        def round_to(x: Tensor, j: int) -> Tensor:
            q = self._snap(x, self.scale[:, (j if places is None else places[j]) // self.size])
            return q if keep is None else q.mul_(keep[:, j])

        return round_to

    def _refit(self, p: Problem, Q: Tensor, F: Tensor, whole: Tensor | None) -> None:
        if not self.fixed:
            super()._refit(p, Q, F, whole)

    def _spread(self) -> Tensor:
        return self.scale.repeat_interleave(self.size, 1) if self.scale.shape[1] > 1 else self.scale

    def _snap(self, x: Tensor, scale: Tensor) -> Tensor:
        return snapped(x / scale, self.table).mul_(scale)

    def as_codebook(self, Q: Tensor) -> ScaledCodebook:
        """The coding that decodes to Q [groups, columns, rows / groups]."""
        indices = join(rank(Q / self._spread(), self.table)).to(torch.uint8).contiguous()
        return ScaledCodebook(indices, self.table[None].clone(), _stored(self.scale, self.shape[0]))
