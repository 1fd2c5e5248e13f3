"""`Problem`: a layer and its statistics as the least-squares problem that every technique solves."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import LessenError
from ..memory import rest, stretches
from ..models.layer import Layer
from . import evenly
from .evenly import Evenly
from .second_order import Factor, Rounding, descend, factorize, feed_back, join, split
from .statistics import Statistics

log = logging.getLogger("lessen")

_RIDGE = 1e-3  # of the mean diagonal, at least
_GLANCE = 64  # rows of a group that tell which of two roundings is better
_MANY = 2**22  # weights that are worked on at once: 16 MB, and several times that
_FLOOR = 1e-2  # of the mean: outputs that calibration found unimportant still count for something


@dataclass(frozen=True, eq=False)
class Problem:
    """Minimise sum_r G_r e_r H e_rT with e = W - Q, scaled so that H and G are 1 in the mean.

    Args:
        W: the weight, float32 [groups, columns, rows / groups].
        H: second moment of the input [groups, columns, columns], or None: nothing to compensate errors with.
        diagonal: its diagonal [groups, columns]; ones where nothing is known.
        G: importance of each output, [rows].
        keep: float 1 where a weight may be non-zero and 0 where it must stay zero, like `W`; None if all may.
        name: of the layer, for messages.
        source: the statistics' own H, which tells one problem's factor from another's.
    """

    W: Tensor
    H: Tensor | None
    diagonal: Tensor
    G: Tensor
    keep: Tensor | None
    name: str
    source: Tensor | None = None

    @property
    def groups(self) -> int:
        return self.W.shape[0]

    @property
    def G_split(self) -> Tensor:
        """`G` as [groups, 1, rows / groups]."""
        return self.G.reshape(self.groups, 1, -1)

    def heaviest_first(self) -> Tensor:
        """The column order of "act-order": the inputs with the largest second moment while all freedom is left."""
        return self.diagonal.sum(0).argsort(descending=True, stable=True)

    def factor(self, order: Tensor, damp: float = 0.0) -> Factor | None:
        """The Cholesky factor of H; None, and a line in the log, where there is none: then round to nearest."""
        if self.H is None:
            log.info("%s: no second moment of its input; errors are not fed back", self.name)
            return None
        kept = _last.get(self.source, order, damp)
        if kept is not None:
            return kept
        as_it_is = torch.equal(order, torch.arange(len(order)))  # spares a copy in another order
        factor = factorize(self.H, damp, None if as_it_is else order)
        if factor is None:
            log.info("%s: the second moment of its input is singular; errors are not fed back", self.name)
        _last.keep(self.source, order, damp, factor)
        return factor

    def harm(self, Q: Tensor) -> float:
        """sum_r G_r e_r H e_rT for Q [groups, columns, rows / groups]: `Statistics.harm` up to a factor."""
        E = self.W - Q
        moved = E * self.diagonal[:, :, None] if self.H is None else self.H @ E
        return float(((E * moved).sum(1, dtype=torch.float64).clamp_min(0) * self.G_split[:, 0]).sum())

    def of(self, rows: slice) -> Problem:
        """The problem of these rows of each group alone."""
        keep = None if self.keep is None else self.keep[:, :, rows]
        return replace(self, W=self.W[:, :, rows].contiguous(), G=self.G_split[:, 0, rows].reshape(-1), keep=keep)

    def no_worse(self, Q: Tensor, than: Tensor, share: float = 1.0) -> bool:
        """Whether `Q` does at most this share of the other's harm; of large layers 64 rows of each group are asked."""
        step = slice(None, None, max(1, self.W.shape[2] // _GLANCE))
        part = replace(self, W=self.W[:, :, step], G=self.G_split[:, 0, step].reshape(-1))
        return part.harm(Q[:, :, step]) <= share * part.harm(than[:, :, step])

    @property
    def matrix(self) -> Tensor:
        """The weight, [rows, columns]."""
        return join(self.W)

    def column_weights(self) -> Tensor:
        """`diagonal` for each row, [rows, columns] (expanded, not held)."""
        g, c = self.diagonal.shape
        return self.diagonal[:, None].expand(g, len(self.G) // g, c).reshape(-1, c) if g > 1 else self.diagonal


def fed_back(p: Problem, rounding: Callable[[Tensor], Rounding | Evenly], damp: float = 0.0) -> Tensor | None:
    """The weight rounded with error feedback, heaviest inputs first; None where H is missing or singular.

    Args:
        rounding: column order -> how to round column j of that order.
        damp: more of it feeds less back: coarse levels clip what fine ones would take up.
    """
    order = p.heaviest_first()
    factor = p.factor(order, damp)
    if factor is None:
        return None
    levels = rounding(order)
    if not isinstance(levels, Evenly):
        return feed_back(p.W[:, order], factor, levels)[:, order.argsort()]
    Q = torch.empty_like(p.W)
    for rows in many_rows(p.W):
        Q[:, order, rows] = evenly.feed_back(p.W[:, order, rows], factor, levels.of(rows))
    return Q


def many_rows(W: Tensor) -> Iterator[slice]:
    """Slices of the rows of W [groups, columns, rows], each of which has its own problem: all, but of large layers."""
    return stretches(W.shape[2], W.shape[0] * W.shape[1], _MANY)


def descended(Q: Tensor, F: Tensor, H: Tensor, levels: Rounding | Evenly) -> None:
    """`second_order.descend`, whatever the levels are."""
    if isinstance(levels, Evenly):
        evenly.descend(Q, F, H, levels)
    else:
        descend(Q, F, H, levels)


class _Last:
    """The last factor made: a chooser tries many settings on one layer before it goes on to the next."""

    def __init__(self) -> None:
        self._source: weakref.ref[Tensor] | None = None
        self._made: tuple[Tensor, float, Factor | None] | None = None

    def get(self, source: Tensor | None, order: Tensor, damp: float) -> Factor | None:
        if source is None or self._source is None or self._source() is not source or self._made is None:
            return None
        return self._made[2] if self._made[1] == damp and torch.equal(self._made[0], order) else None

    def keep(self, source: Tensor | None, order: Tensor, damp: float, factor: Factor | None) -> None:
        self._source = None if source is None else weakref.ref(source)
        self._made = (order, damp, factor)

    def forget(self) -> None:
        """Frees it: as large as the largest second moment."""
        self._source = self._made = None


_last = _Last()
forget_factor = _last.forget


def problem(layer: Layer, statistics: Statistics) -> Problem:
    """The layer's problem; `LessenError` naming the layer if its weight is not finite or the statistics don't fit."""
    matrix = layer.matrix
    if not bool(torch.isfinite(matrix).all()):
        bad = int((~torch.isfinite(matrix)).sum())
        raise LessenError(f"{bad} of its weights are NaN or infinite", where=layer.name, mend="take a healthy one")
    rows, columns = matrix.shape
    diagonal = statistics.diagonal(columns).float()
    if diagonal.shape[-1] != columns or rows % diagonal.shape[0]:
        raise LessenError(
            f"statistics of {tuple(diagonal.shape)} [groups, columns] don't fit a weight of {rows} x {columns}",
            where=layer.name,
            mend="collect statistics on this very model",
        )
    groups = diagonal.shape[0]
    size = _mean(diagonal)
    H = None if statistics.full is None else statistics.full.float() / size
    diagonal = diagonal / size
    if H is not None:
        rest()  # the statistics' own
        H.diagonal(dim1=-2, dim2=-1).add_(ridge(columns, statistics.observations))
    G = statistics.row_weights(rows).float()
    keep = None if layer.mask is None else split(layer.mask.float(), groups)
    G = (G / _mean(G)).clamp_min(_FLOOR)
    return Problem(split(matrix, groups), H, (diagonal + _RIDGE), G, keep, layer.name, statistics.H)


def ridge(columns: int, observations: int) -> float:
    """How much of the mean diagonal to add to H, so that nothing leans on directions that calibration hardly saw.

    The fewer observations a column has, the more; measured: with as many observations as columns 0.02 rounds best on
    unseen data, with four times as many 0.001, with half as many 0.1 still does little better than none at all.
    """
    thin = columns / observations if observations else 0.0
    return min(1.0, max(_RIDGE, 0.02 * thin * thin))


def _mean(t: Tensor) -> float:
    mean = float(t.double().mean())
    return mean if mean > 0 else 1.0
