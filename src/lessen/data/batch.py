"""`Batch` and `Rows`: samples as tensors, and samples that are copied only when they are taken."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples of equal shape.

    Args:
        inputs: what the network takes, each [n, ...]; a 0-dim tensor is shared by all samples.
        labels: [n, ...], or None.
        names: the inputs' names in the source, in the same order; () where they had none.
        whole: the batch can't be cut into samples (its inputs disagree about the first axis) and counts as one.
    """

    inputs: tuple[Tensor, ...]
    labels: Tensor | None = None
    names: tuple[str, ...] = ()
    whole: bool = False

    @property
    def n(self) -> int:
        """Number of samples."""
        return 1 if self.whole else next(t.shape[0] for t in self.inputs if t.ndim)

    @property
    def values_of_sample(self) -> int:
        """Numbers that the inputs of one sample consist of; at least 1."""
        return max(sum(t.numel() for t in self.inputs if t.ndim) // max(self.n, 1), 1)

    @property
    def nbytes(self) -> int:
        """Bytes of memory that inputs and labels take."""
        return sum(t.nbytes for t in self.tensors)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.inputs + (() if self.labels is None else (self.labels,))

    @property
    def by_name(self) -> dict[str, Tensor]:
        """The inputs by their names (`input0`, ... where the source gave none)."""
        names = self.names or tuple(f"input{i}" for i in range(len(self.inputs)))
        return dict(zip(names, self.inputs, strict=True))

    def take(self, index: Any) -> Batch:
        """The samples at `index` (a slice or an integer tensor)."""
        if self.whole:
            return self
        inputs = tuple(t[index] if t.ndim else t for t in self.inputs)
        return replace(self, inputs=inputs, labels=None if self.labels is None else self.labels[index])

    def head(self, n: int) -> Batch:
        """The first `n` samples."""
        return self.take(slice(0, n))

    def with_input(self, values: Tensor) -> Batch:
        """With one more input, [n, ...]."""
        return replace(self, inputs=(*self.inputs, values))


@dataclass(frozen=True, eq=False)
class Rows:
    """Samples picked out of batches that stay where they lie; read like one `Batch` of them, copied when taken.

    Args:
        pieces: batches of one kind; their samples are numbered through.
        index: int64 [n], the numbers of the samples, in their order here.
        beside: further inputs, each [n, ...], in the order of `index`.
    """

    pieces: tuple[Batch, ...]
    index: Tensor
    beside: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, pieces: tuple[Batch, ...]) -> Rows:
        """All samples of the pieces."""
        return cls(pieces, torch.arange(sum(p.n for p in pieces)))

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.index)

    @property
    def names(self) -> tuple[str, ...]:
        return self.pieces[0].names

    @property
    def whole(self) -> bool:
        return self.pieces[0].whole

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """A copy of all inputs."""
        return self.take(slice(None)).inputs

    @property
    def labels(self) -> Tensor | None:
        """A copy of all labels, [n, ...]."""
        found = [p.labels for p in self.pieces if p.labels is not None]
        if not found or self.whole:
            return found[0] if found else None
        return (found[0] if len(found) == 1 else torch.cat(found))[self.index]

    @property
    def nbytes(self) -> int:
        """Bytes of the samples; inputs that all of them share count once."""
        if self.whole:
            return self.pieces[0].nbytes
        columns = (*self.pieces[0].tensors, *self.beside)
        return sum(t.nbytes // max(len(t), 1) * self.n if t.ndim else t.nbytes for t in columns)

    @property
    def values_of_sample(self) -> int:
        """Numbers that the inputs of one sample consist of; at least 1."""
        return self.pieces[0].values_of_sample

    def take(self, index: Any) -> Batch:
        """The samples at `index` (a slice or an integer tensor), copied."""
        found, more = self._gathered(self.index[index]), tuple(t[index] for t in self.beside)
        return replace(found, inputs=(*found.inputs, *more)) if more else found

    def head(self, n: int) -> Rows:
        """The first `n` samples."""
        return replace(self, index=self.index[:n], beside=tuple(t[:n] for t in self.beside))

    def with_input(self, values: Tensor) -> Rows:
        """With one more input, [n, ...]."""
        return replace(self, beside=(*self.beside, values))

    @cached_property
    def _ends(self) -> Tensor:
        return torch.tensor([p.n for p in self.pieces]).cumsum(0)

    def _gathered(self, wanted: Tensor) -> Batch:
        if len(self.pieces) == 1:
            return self.pieces[0].take(wanted)
        owner, parts = torch.bucketize(wanted, self._ends, right=True), []
        for i in owner.unique().tolist() or [0]:
            mine = owner == i
            parts.append((mine, self.pieces[i].take(wanted[mine] - (self._ends[i - 1] if i else 0))))
        return _joined(len(wanted), parts)


def _joined(n: int, parts: list[tuple[Tensor, Batch]]) -> Batch:
    """One batch of samples that came in several parts, each with a mask [n] of its places."""
    like = parts[0][1]
    if len(parts) == 1:
        return like
    made = tuple(t.new_empty(n, *t.shape[1:]) if t.ndim else t for t in like.tensors)
    for mine, part in parts:
        for to, values in zip(made, part.tensors, strict=True):
            if to.ndim:
                to[mine] = values
    labels = made[-1] if like.labels is not None else None
    return replace(like, inputs=made[: len(like.inputs)], labels=labels)
