"""Running sums of one layer: they take little memory, whatever the number of batches."""

from __future__ import annotations

import torch
from torch import Tensor

from ..memory import rest, shelved

WIDEST = 4608  # columns: above, only the diagonal of the second moment is held (85 MB at this width)


class Moments:
    """Sums of x, of x xT and of the range of what comes into a layer.

    Args:
        second: whether x xT is wanted, or its diagonal alone.
    """

    def __init__(self, second: bool = True) -> None:
        self.second = second
        self.n = 0
        self.lowest: Tensor | None = None
        self.highest: Tensor | None = None
        self.sum: Tensor | None = None
        self.square: Tensor | None = None
        self._finished = False

    def range(self, x: Tensor, by_column: bool = False) -> None:
        """Widen the range by everything in `x`, or that of each column by the rows [n, columns] of `x`."""
        if not x.numel():
            return
        low, high = (x.amin(0), x.amax(0)) if by_column else torch.aminmax(x)
        self.lowest = low if self.lowest is None else torch.minimum(self.lowest, low)
        self.highest = high if self.highest is None else torch.maximum(self.highest, high)

    @property
    def low(self) -> float:
        """The least of all; NaN where there was one."""
        return float("inf") if self.lowest is None else float(self.lowest.min())

    @property
    def high(self) -> float:
        """The most of all."""
        return float("-inf") if self.highest is None else float(self.highest.max())

    @property
    def extremes(self) -> tuple[Tensor, Tensor] | None:
        """Lowest and highest of each column, float32 [columns]; None where they were not told apart."""
        if self.lowest is None or self.highest is None or not self.lowest.ndim:
            return None
        return self.lowest.float(), self.highest.float()

    def add(self, columns: Tensor) -> None:
        """Take in rows of columns, float32 [groups, n, columns]."""
        groups, n, width = columns.shape
        if self.sum is None:
            self.sum = torch.zeros(groups, width, dtype=torch.float64)
            full = self.second and width <= WIDEST
            self.square = shelved(groups, width, *([width] if full else []))
        self.n += n
        self.sum += columns.sum(1)
        assert self.square is not None
        if self.square.ndim == 3:
            self.square.baddbmm_(columns.transpose(1, 2), columns)
        else:
            self.square += columns.square().sum(1)
        rest()

    def finish(self) -> None:
        """From sums to means, in place; layers that share these sums then share one matrix."""
        if self.square is not None and not self._finished:
            self.square /= self.n
            rest()
        self._finished = True

    def mean(self) -> Tensor | None:
        return None if self.sum is None else (self.sum / self.n).float()

    def second_moment(self) -> Tensor | None:
        self.finish()
        return self.square


class Gradients:
    """Sums of the squared loss gradient at a layer's outputs, [rows]; of its outer product for embeddings."""

    def __init__(self, rows: int) -> None:
        self.rows = torch.zeros(rows, dtype=torch.float64)
        self.seen = False

    def add(self, grads: Tensor, start: int = 0) -> None:
        """Take in gradients [n, k] of the outputs start ... start + k."""
        self.rows[start : start + grads.shape[1]] += grads.double().square().sum(0)
        self.seen = True


class Lookups:
    """What an embedding layer sees: how often each row is used, and the gradient at what it returns."""

    def __init__(self, rows: int) -> None:
        self.counts = torch.zeros(rows, dtype=torch.float64)
        self.moments = Moments()

    def count(self, indices: Tensor) -> None:
        self.counts += torch.bincount(indices.reshape(-1), minlength=len(self.counts))

    def usage(self, samples: int) -> Tensor:
        """Lookups of each row per sample; rows that this data never used count as a half use, they may come yet."""
        smoothed = self.counts + 0.5
        return (smoothed * (self.counts.sum() / smoothed.sum()) / samples).float()
