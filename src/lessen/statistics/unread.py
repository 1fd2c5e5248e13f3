"""Padding: positions that never reach the output, found by their gradients and known by an input of the network.

Sentences of a batch are filled up to one length, and a mask hides what was filled in. A layer computes there all the
same, but nobody reads it: second moments taken there make rounding careful where nothing can be lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .batches import inputs_of

_KINDS = (torch.bool, torch.uint8, torch.int32, torch.int64)


@dataclass(frozen=True)
class Unread:
    """Positions of a batch are never read where its input number `input` [n, t] holds `value`."""

    input: int
    value: int

    def rows(self, batch: Any) -> Tensor | None:
        """Which rows of a layer's input, position after position, are read: bool [n * t]."""
        inputs = inputs_of(batch)
        x = inputs[self.input] if self.input < len(inputs) else None
        return None if x is None or x.ndim != 2 else (x != self.value).flatten()


def those_read(x: Tensor, read: Tensor | None) -> Tensor:
    """The rows of `x` [n, columns] that are read; all where that is not known of this many rows."""
    return x if read is None or len(read) != len(x) or bool(read.all()) else x[read]


class Search:
    """Watches the backward pass of the first batches: which input tells exactly where no gradient arrives?"""

    def __init__(self) -> None:
        self._told: dict[int, Tensor] = {}  # inputs of this batch that may tell
        self._reached: dict[int, Tensor] = {}  # by number of rows: where any layer got a gradient
        self._values: dict[int, int | None] | None = None  # what they tell it by; None while nothing was unread
        self._several = False

    def starts(self, inputs: tuple[Tensor, ...]) -> None:
        """A batch is about to run."""
        self._told = {k: x for k, x in enumerate(inputs) if x.ndim == 2 and x.dtype in _KINDS}
        self._reached = {}

    def gradients(self, grads: Tensor) -> None:
        """The gradient [rows, k] at some outputs of a layer."""
        n = len(grads)
        if any(x.numel() == n for x in self._told.values()):
            got = (grads != 0).any(1)
            self._reached[n] = self._reached[n] | got if n in self._reached else got

    def ends(self) -> None:
        """All gradients of the batch have arrived."""
        if self._values is None:
            self._values = dict.fromkeys(self._told)
        told = {k: x for k, x in self._told.items() if x.numel() in self._reached}
        self._values = {k: v for k, v in self._values.items() if k in told}
        for k in list(self._values):
            self._compare(self._values, k, told[k], ~self._reached[told[k].numel()].view_as(told[k]))
        self._told = {}

    def _compare(self, values: dict[int, int | None], k: int, x: Tensor, unread: Tensor) -> None:
        self._several |= min(x.shape) > 1  # of one sample, rows in the other order would look the same
        if values[k] is None and bool(unread.any()):
            values[k] = int(x[unread][0])
        value = values[k]
        if value is not None and not torch.equal(x.eq(value), unread):
            del values[k]

    def found(self) -> Unread | None:
        """What tells the unread positions; None where nothing does."""
        told = (Unread(k, v) for k, v in (self._values or {}).items() if v is not None)
        return next(told, None) if self._several else None
