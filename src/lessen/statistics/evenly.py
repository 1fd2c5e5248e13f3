"""The loops of `second_order` for evenly spaced levels, in numpy: small layers are all overhead in torch.

One group of columns (a linear layer, a dense convolution); everything transposed, [columns, rows], as there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .second_order import Factor

_BLOCK = 32  # columns rounded between two products with all the later ones


@dataclass(frozen=True, eq=False)
class Evenly:
    """Levels k * scale with k from low to high, for each column and row.

    Args:
        scale, low, high: [steps, rows or 1]; low and high are whole numbers.
        size: columns that share a step.
        keep: float 1 where a weight may be non-zero, else 0, [columns, rows]; None if all may.
        order: which column each of those that are rounded is; as they are if None.
    """

    scale: Tensor
    low: Tensor
    high: Tensor
    size: int
    keep: Tensor | None = None
    order: Tensor | None = None

    def of(self, rows: slice) -> Evenly:
        """For these rows alone."""
        scale, low, high = (t if t.shape[1] == 1 else t[:, rows] for t in (self.scale, self.low, self.high))
        keep = None if self.keep is None else self.keep[:, rows]
        return Evenly(scale, low, high, self.size, keep, self.order)

    def columns(self, count: int) -> Iterator[tuple[np.ndarray, ...]]:
        """(scale, 1 / scale, low, high), and the mask if there is one, of each column in its turn."""
        parts = [t.numpy() for t in (self.scale, 1 / self.scale, self.low, self.high)]
        steps = list(zip(*parts, strict=True))
        keep = None if self.keep is None else self.keep.numpy()
        for place in range(count) if self.order is None else self.order.tolist():
            step = steps[place // self.size]
            yield step if keep is None else (*step, keep[place])


def feed_back(W: Tensor, factor: Factor, levels: Evenly) -> Tensor:
    """`second_order.feed_back` of W [1, columns, rows]."""
    A, count = factor.feedback[0], W.shape[1]
    W, Q, E = W[0].contiguous(), torch.empty_like(W[0]), torch.empty_like(W[0])
    rounded, left, values, factors = (t.numpy() for t in (Q, E, W, A))
    x, each = np.empty_like(values[0]), levels.columns(count)
    for start in range(0, count, _BLOCK):
        end = min(start + _BLOCK, count)
        target = torch.addmm(W[start:end], A[start:end, :start], E[:start]).numpy() if start else values[start:end]
        for j in range(start, end):
            if j > start:
                np.dot(factors[j, start:j], left[start:j], out=x)
                np.add(x, target[j - start], out=x)
            else:
                x[...] = target[0]
            _round(x, next(each), rounded[j])
            np.subtract(values[j], rounded[j], out=left[j])
    return Q[None]


def descend(Q: Tensor, F: Tensor, H: Tensor, levels: Evenly) -> None:
    """`second_order.descend` of Q and F [1, columns, rows], in place."""
    count, moved = Q.shape[1], torch.empty_like(Q[0])
    inverse = (1 / H[0].diagonal().clamp_min(torch.finfo(H.dtype).tiny)).numpy()
    values, moves, pulls = Q[0].numpy(), moved.numpy(), H[0].numpy()
    x, q, each = np.empty_like(values[0]), np.empty_like(values[0]), levels.columns(count)
    for start in range(0, count, _BLOCK):
        end = min(start + _BLOCK, count)
        due = F[0, start:end]
        pull = (torch.addmm(due, H[0, start:end, :start], moved[:start], alpha=-1) if start else due).numpy()
        for j in range(start, end):
            if j > start:
                np.dot(pulls[j, start:j], moves[start:j], out=x)
                np.subtract(pull[j - start], x, out=x)
                np.multiply(x, inverse[j], out=x)
            else:
                np.multiply(pull[0], inverse[j], out=x)
            np.add(x, values[j], out=x)
            _round(x, next(each), q)
            np.subtract(q, values[j], out=moves[j])
            values[j] = q
    F[0].addmm_(H[0], moved, alpha=-1)


def _round(x: np.ndarray, step: tuple[np.ndarray, ...], out: np.ndarray) -> None:
    """The nearest levels."""
    np.multiply(x, step[1], out=out)
    np.rint(out, out=out)
    np.maximum(out, step[2], out=out)
    np.minimum(out, step[3], out=out)
    np.multiply(out, step[0], out=out)
    if len(step) > 4:
        np.multiply(out, step[4], out=out)
