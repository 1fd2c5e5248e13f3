"""The kernel of second-order pruning: remove the weight that hurts least, let the others take over its work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ..codings import Sparse
from ..models.layer import Layer
from ..statistics.fallback import fall_back
from ..statistics.problem import Problem, ridge
from ..statistics.second_order import Factor, join, polish
from ..statistics.statistics import Statistics
from .mask import sparse

Choice = Callable[[Tensor], Tensor]  # scores [groups, columns of a block, rows] -> 1 where a weight stays, 0 else

_GLANCE = 64  # rows of a group that tell which of two ways is better
_WIDE, _NARROW, _LEAST = 128, 32, 8  # columns between two products
_DAMPS = (0.02, 0.001)  # of the mean diagonal: without, the first columns lean on later ones more than these can bear
_SMALL = 2**12  # weights of a layer that takes no time


def remove(W: Tensor, factor: Factor, choose: Choice, keep: Tensor | None, block: int) -> tuple[Tensor, Tensor]:
    """Weights [g, c, r] with the chosen ones removed and the rest updated, and the mask (1 stays, 0 is gone).

    Columns in order; the mask of a block is chosen when it is reached, from w^2 * pivot: what removing that weight
    alone costs given all that was removed before (SparseGPT: Frantar & Alistarh 2023, sec. 3; LDLQ form).

    Args:
        keep: 1 where a weight may stay; None if all may.
    """
    sweep = _Sweep(W, factor, choose, keep, block)
    sweep.columns(0, W, _sizes(block))
    return (W - sweep.E) * sweep.mask, sweep.mask


def _sizes(block: int) -> tuple[int, ...]:
    """Blocks inside blocks, the smallest first worked through one by one: large products take less time."""
    whole = {block * max(1, n // block) for n in (_WIDE, _NARROW)}
    return tuple(sorted({block, *whole, *(n for n in (_NARROW, _LEAST) if n < block)}, reverse=True))


class _Sweep:
    """One pass over the columns: which weights stay of those that were reached, and the error that was left."""

    def __init__(self, W: Tensor, factor: Factor, choose: Choice, keep: Tensor | None, block: int) -> None:
        self.factor, self.choose, self.keep, self.block = factor, choose, keep, block
        self.E, self.mask = torch.zeros_like(W), torch.empty_like(W)  # no error yet where the sweep has not been
        each = [t.split(1, 1) for t in (W, self.mask, self.E)]  # views made once: most of the time is overhead
        self.views = list(zip(*each, strict=True))

    def columns(self, start: int, target: Tensor, sizes: tuple[int, ...]) -> None:
        """Columns `start` ..., whose values should be `target` [g, n, r] given the errors of all before `start`."""
        A, E, n = self.factor.feedback, self.E, target.shape[1]
        for at in range(0, n, sizes[0]):
            first, last = start + at, min(start + at + sizes[0], start + n)
            part = target[:, at : last - start]
            if at:
                part = torch.baddbmm(part, A[:, first:last, start:first], E[:, start:first])
            if sizes[0] == self.block:
                self._choose(part, slice(first, last))
            if len(sizes) > 1:
                self.columns(first, part, sizes[1:])
            else:
                self._one_by_one(first, part)

    def _one_by_one(self, start: int, target: Tensor) -> None:
        here = slice(start, start + target.shape[1])
        E, rows = self.E[:, here], self.factor.feedback[:, here, here].split(1, 1)
        for x, row, (W, mask, left) in zip(target.split(1, 1), rows, self.views[here], strict=True):
            x = torch.baddbmm(x, row, E)  # later columns have no error yet
            torch.addcmul(W, x, mask, value=-1, out=left)  # what stays takes all that it should be

    def _choose(self, target: Tensor, here: slice) -> None:
        scores = target.square() * self.factor.pivots[:, here, None]
        if self.keep is None:
            self.mask[:, here] = self.choose(scores)
        else:
            self.mask[:, here] = self.choose(scores * self.keep[:, here]) * self.keep[:, here]


def prune(p: Problem, choose: Choice, block: int, steps: int) -> Sparse:
    """The layer with the chosen weights removed and the survivors near the least squares of the layer's error.

    Where the second moment is missing or can't be factorised, or where the simple way does less harm: the weights with
    the highest w^2 E[x^2] stay as they are (and `fall_back` is told).

    Args:
        choose: picks the survivors of `block` columns.
        steps: of conjugate gradients at the end, for what one pass over the columns leaves undone.
    """
    tried = [] if p.H is None else [_updated(p, choose, block, steps, damp) for damp in _dampings(p, block)]
    made = [t for t in tried if t is not None]
    if not made:
        lacking = "no second moment" if p.H is None else "a singular second moment"
        fall_back(p.name, f"{lacking} of its input: ranked by |w| sqrt(E[x^2]) (Wanda), survivors not updated")
        return plain(p, choose)
    updated, kept = made[0] if len(made) == 1 else min(made, key=lambda t: p.harm(t[0]))
    if not bool(kept.any()) or _simple_is_better(p, choose, updated):
        fall_back(p.name, "ranked by |w| sqrt(E[x^2]) (Wanda), survivors not updated: less harm than with the update")
        return plain(p, choose)
    return sparse(join(updated), join(kept).bool())


def _dampings(p: Problem, block: int) -> tuple[float, ...]:
    """Both are tried where that takes no time (narrow blocks take more); the better depends on how alike inputs are."""
    return _DAMPS if p.W.numel() <= _SMALL and block >= _WIDE else _DAMPS[:1]


def _updated(p: Problem, choose: Choice, block: int, steps: int, damp: float) -> tuple[Tensor, Tensor] | None:
    """The survivors with their new values, and where they are; None where H can't be factorised."""
    factor = p.factor(torch.arange(p.W.shape[1]), damp)
    if factor is None or p.H is None:
        return None
    updated, kept = remove(p.W, factor, choose, p.keep, block)
    return polish(p.W, kept, updated, p.H, steps if p.W.numel() > _SMALL else 4 * steps) * kept, kept


def plain(p: Problem, choose: Choice) -> Sparse:
    """The layer without the weights that `choose` finds by w^2 E[x^2], the others as they are."""
    mask = _simple(p, choose)
    return sparse(join(p.W * mask), join(mask).bool())


def _simple(p: Problem, choose: Choice) -> Tensor:
    scores = p.W.square() * p.diagonal[:, :, None]
    return choose(scores if p.keep is None else scores * p.keep) * (1.0 if p.keep is None else p.keep)


def _simple_is_better(p: Problem, choose: Choice, updated: Tensor) -> bool:
    """Whether `plain` does less harm, on 64 of each group's rows at most."""
    step = slice(None, None, max(1, p.W.shape[2] // _GLANCE))
    keep = None if p.keep is None else p.keep[:, :, step]
    part = replace(p, W=p.W[:, :, step], G=p.G_split[:, 0, step].reshape(-1), keep=keep)
    return part.harm(part.W * _simple(part, choose)) < part.harm(updated[:, :, step])


def refitted(p: Problem, kept: Tensor, steps: int) -> Sparse:
    """The layer with the weights at `kept` [groups, columns, rows] (1 stays, 0 is gone) near their least squares."""
    plain = p.W * kept
    if p.H is None:
        fall_back(p.name, "no second moment of its input: survivors not updated")
        return sparse(join(plain), join(kept).bool())
    updated = polish(p.W, kept, plain, p.H, steps) * kept
    return sparse(join(updated if p.no_worse(updated, plain) else plain), join(kept).bool())


def tell_dampening(layer: Layer, statistics: Statistics) -> bool:
    """Says so where calibration saw fewer inputs than the layer has columns, and what is added to the second moment.

    Returns whether that is so: conjugate gradients then need more steps.
    """
    columns, seen = layer.shape[1], statistics.observations
    singular = statistics.full is not None and 0 < seen < columns
    if singular:
        fall_back(
            layer.name,
            f"the second moment of its {columns} inputs is singular ({seen} observations): dampened by "
            f"{ridge(columns, seen):.2g} of its mean",
        )
    return singular
