"""`Uniform`: evenly spaced levels, with the rounding error of each weight fed back into the ones still to come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..codings import Grid
from ..errors import LessenError
from ..models.layer import Layer
from ..statistics.evenly import Evenly
from ..statistics.problem import Problem, descended, fed_back, many_rows, problem
from ..statistics.second_order import Rounding, join
from ..statistics.statistics import Statistics
from .scale import fit, levels, unclipped

_DAMP = {2: 0.02, 3: 0.004}  # measured on layer problems; from four bits on none is best
_FINE = 6  # bits from which levels that clip nothing are best
# Feedback hands errors on from loud inputs to quiet ones, so that steps for it mind the loud ones less: their weight is
# the root of the second moment (2 to 4 % less error than with all of it). Where feedback gains less than this share,
# errors have nowhere to go, and steps are fitted as for rounding to nearest.
_CLEARLY = 0.8


def _as_they_are(weights: Tensor) -> Tensor:
    return weights


@dataclass(frozen=True)
class Uniform:
    """Uniform quantization of a weight at `bits` bits: value = (code - zero point) * scale.

    The step minimises the squared error weighted by the input's second moment; codes are then rounded column by
    column with error feedback (GPTQ: Frantar et al. 2022, https://arxiv.org/abs/2210.17323), then codes and steps are
    improved by coordinate descent and least squares on the same error. The outcome is never worse than rounding to
    nearest (of more than 64 rows, 64 are asked), which is also what is left where the second moment is missing or
    singular (the log then says so).

    Args:
        bits: 2 to 16.
        per: one step for each output "channel", for the whole "tensor", or for groups of this many columns.
        symmetric: zero point 0; else an integer one for each step.
        feedback: False rounds to nearest.
        sweeps: rounds of coordinate descent; None picks by the number of bits.

    >>> Uniform(bits=4, per=32).encode(layer, statistics)  # doctest: +SKIP
    """

    bits: int = 8
    per: str | int = "channel"
    symmetric: bool = True
    feedback: bool = True
    sweeps: int | None = None

    def __post_init__(self) -> None:
        if not (_is_int(self.bits) and 2 <= self.bits <= 16):
            raise LessenError(f"bits={self.bits!r}", where="Uniform", mend="give 2 to 16 bits")
        if not (self.per in ("channel", "tensor") or (_is_int(self.per) and int(self.per) > 0)):
            raise LessenError(
                f"per={self.per!r}", where="Uniform", mend='give "channel", "tensor", or columns per group (32, 128)'
            )
        if self.sweeps is not None and not (_is_int(self.sweeps) and 0 <= self.sweeps <= 100):
            raise LessenError(f"sweeps={self.sweeps!r}", where="Uniform", mend="give 0 to 100, or None")

    def encode(self, layer: Layer, statistics: Statistics) -> Grid:
        """The layer's weight on a grid; `LessenError` if groups don't divide its columns or weights aren't finite."""
        p = problem(layer, statistics)
        self._check(layer)
        fed = None
        if self.feedback and p.H is not None:
            fed = self._fed(p, torch.sqrt, _CLEARLY) if self.bits < _FINE else None
            fed = fed or self._fed(p, _as_they_are, 1.0)
        grid = self._fitted(p) if fed is None else fed[0]
        Q = grid.nearest(p.W) if fed is None else fed[1]
        if self.feedback and p.H is not None:
            Q = grid.improve(p, Q, self._sweeps)
        return grid.coding(Q, self.bits)

    def _fed(self, p: Problem, weigh: Callable[[Tensor], Tensor], share: float) -> tuple[_Levels, Tensor] | None:
        """Levels and what error feedback makes on them, if that does at most `share` of the harm of nearest ones."""
        grid = self._fitted(p, weigh)
        levels_fed = grid
        if self.bits >= _FINE:  # what is clipped costs more than fine steps gain
            values, _ = _strips(p, self.per, self._size(p))
            levels_fed = self._grid(p, unclipped(values, self.bits, self.symmetric))
            del values
        back = fed_back(p, levels_fed.rounding, _DAMP.get(self.bits, 0.0))
        return (levels_fed, back) if back is not None and p.no_worse(back, grid.nearest(p.W), share) else None

    def _fitted(self, p: Problem, weigh: Callable[[Tensor], Tensor] = _as_they_are) -> _Levels:
        """Steps of the least squared error; what they are fitted to is as large as the weight, and not held."""
        values, weights = _strips(p, self.per, self._size(p))
        return self._grid(p, fit(values, weigh(weights), self.bits, self.symmetric))

    def _grid(self, p: Problem, fitted: tuple[Tensor, Tensor]) -> _Levels:
        return _Levels.of(p, self.per, self._size(p), fitted, self.bits)

    def _size(self, p: Problem) -> int:
        """Columns that share a step."""
        return p.W.shape[1] if isinstance(self.per, str) else self.per

    @property
    def _sweeps(self) -> int:
        return self.sweeps if self.sweeps is not None else (1 if self.bits > 3 else 2)

    def _check(self, layer: Layer) -> None:
        columns = layer.shape[1]
        if isinstance(self.per, int) and columns % self.per:
            raise LessenError(
                f"{columns} columns can't be cut into groups of {self.per}", where=layer.name, mend='use per="channel"'
            )

    @classmethod
    def offers(cls) -> tuple[Uniform, ...]:
        """Each number of bits per channel, and the four-bit groups that weight-only kernels run.

        Groups also with zero points: a fifth less error for one code more a group; per channel that does not pay.
        """
        groups = (cls(4, size, symmetric) for size in (32, 128) for symmetric in (True, False))
        return (*(cls(b) for b in (8, 7, 6, 5, 4)), *groups, cls(3), cls(2))


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _strips(p: Problem, per: str | int, size: int) -> tuple[Tensor, Tensor]:
    """Values that share a step, one row each, and their weights."""
    matrix, weights = p.matrix, p.column_weights()
    if per == "tensor":
        return matrix.reshape(1, -1), (weights * p.G[:, None]).reshape(1, -1)
    if per == "channel":
        return matrix, weights
    return matrix.reshape(-1, size), weights.expand(matrix.shape).reshape(-1, size)


@dataclass(eq=False)
class _Levels:
    """A grid under work, in the layout of a problem: `scale`, `low`, `high` [groups or 1, steps, rows or 1]."""

    scale: Tensor
    zero: Tensor
    low: Tensor
    high: Tensor
    size: int
    keep: Tensor | None
    shape: tuple[int, int]

    @classmethod
    def of(cls, p: Problem, per: str | int, size: int, fitted: tuple[Tensor, Tensor], bits: int) -> _Levels:
        groups, columns, rows = p.W.shape
        low, high = levels(bits)
        if per == "tensor":
            scale, zero = (t.float().reshape(1, 1, 1) for t in fitted)
        else:
            scale, zero = (t.float().reshape(groups, rows, -1).transpose(1, 2).contiguous() for t in fitted)
        return cls(scale, zero, low - zero, high - zero, size, p.keep, (groups * rows, columns))

    def nearest(self, W: Tensor) -> Tensor:
        scale, low, high = (t[:, :, None] for t in self._bounds)
        Q = (W.unflatten(1, (scale.shape[1], -1)) / scale).round_()
        Q = torch.minimum(torch.maximum(Q, low, out=Q), high, out=Q).mul_(scale).flatten(1, 2)
        return Q if self.keep is None else Q.mul_(self.keep)

    @property
    def _bounds(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.scale, self.low, self.high

    def rounding(self, order: Tensor | None = None) -> Rounding | Evenly:
        """The nearest level for column j of the given order."""
        if len(self.scale) == 1 and (self.keep is None or len(self.keep) == 1):
            keep = None if self.keep is None else self.keep[0]
            return Evenly(self.scale[0], self.low[0], self.high[0], self.size, keep, order)
        places = range(self.shape[1]) if order is None else order.tolist()
        keep = self.keep if self.keep is None or order is None else self.keep[:, order]
        groups = list(zip(*(t.unbind(1) for t in (self.scale, *self._bounds[1:])), strict=True))

        def round_to(x: Tensor, j: int) -> Tensor:
            scale, low, high = groups[places[j] // self.size]
            q = torch.clamp((x / scale).round_(), low, high).mul_(scale)
            return q if keep is None else q.mul_(keep[:, j])

        return round_to

    def improve(self, p: Problem, Q: Tensor, sweeps: int) -> Tensor:
        """Steps by least squares and codes by coordinate descent, in turn; the error never grows. `Q` may be reused."""
        parts = [] if not sweeps else list(many_rows(Q)) if self.scale.shape[2] > 1 else [slice(None)]
        if len(parts) == 1:
            return self._improved(p, Q, sweeps)
        for rows in parts:
            Q[:, :, rows] = self._of(rows)._improved(p.of(rows), Q[:, :, rows].contiguous(), sweeps)
        return Q

    def _of(self, rows: slice) -> _Levels:
        """Views of what belongs to these rows of each group."""
        scale, zero, low, high = (t[:, :, rows] for t in (self.scale, self.zero, self.low, self.high))
        keep = None if self.keep is None else self.keep[:, :, rows]
        return replace(self, scale=scale, zero=zero, low=low, high=high, keep=keep)

    def _improved(self, p: Problem, Q: Tensor, sweeps: int) -> Tensor:
        assert p.H is not None
        F = p.H @ (p.W - Q)
        whole = p.H @ Q + F if self.scale.shape[1] == 1 else None  # H W: saves a product in each refit
        for sweep in range(sweeps):
            if sweep or whole is None:  # one step for many columns is right to begin with; those of groups gain
                self._refit(p, Q, F, whole)
            descended(Q, F, p.H, self.rounding())
        self._refit(p, Q, F, whole)
        return Q

    def _refit(self, p: Problem, Q: Tensor, F: Tensor, whole: Tensor | None) -> None:
        """The best step given the codes: scale * (1 + <Q, F> / <Q, H Q>), for each group of columns in its turn.

        In place; what is held here is held for the whole layer.
        """
        assert p.H is not None
        if whole is not None:
            HQ = whole - F
            grow = self._growth(p, Q, F, HQ)
            self.scale[:, 0] *= 1 + grow
            Q.mul_(1 + grow[:, None])
            F.addcmul_(HQ, grow[:, None], value=-1)
            return
        added = torch.empty_like(Q)
        for n in range(self.scale.shape[1]):
            here, before = slice(n * self.size, (n + 1) * self.size), slice(0, n * self.size)
            f = torch.baddbmm(F[:, here], p.H[:, here, before], added[:, before], alpha=-1)
            grow = self._growth(p, Q[:, here], f, p.H[:, here, here] @ Q[:, here])
            self.scale[:, n] *= 1 + grow
            torch.mul(Q[:, here], grow[:, None], out=added[:, here])
        Q.add_(added)
        F.baddbmm_(p.H, added, alpha=-1)

    def _growth(self, p: Problem, Q: Tensor, F: Tensor, HQ: Tensor) -> Tensor:
        gain, cost = ((Q * v).sum(1) * p.G_split[:, 0] for v in (F, HQ))
        if self.scale.numel() == 1:
            gain, cost = gain.sum()[None, None], cost.sum()[None, None]
        return torch.where(cost > 0, gain / cost.clamp_min(1e-30), torch.zeros_like(gain)).clamp(-0.5, 1.0)

    def coding(self, Q: Tensor, bits: int) -> Grid:
        """The grid that decodes to Q [groups, columns, rows / groups]."""
        scale, zero = (t[:, :, None] for t in (self.scale, self.zero))
        low, high = levels(bits)
        codes = (Q.unflatten(1, (scale.shape[1], -1)) / scale).round_().add_(zero).clamp_(low, high)
        codes = codes.to(torch.int8 if bits <= 8 else torch.int16).flatten(1, 2)
        return Grid(
            join(codes).contiguous(),
            _stored(self.scale, self.shape[0]),
            _stored(self.zero, self.shape[0]).to(torch.int16),
            bits,
        )


def _stored(steps: Tensor, rows: int) -> Tensor:
    """[groups, n, rows / groups] as the coding's [rows or 1, n]."""
    return steps.reshape(1, 1) if steps.numel() == 1 and rows != 1 else join(steps).contiguous()
