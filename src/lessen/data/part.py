"""`Batch`, `Part` and `Data`: samples held as tensors on the CPU, in three parts that never mix."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

_VALUES = 2**20  # inputs of a batch: what a network makes of them takes many times their memory

Finish = Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]


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


@dataclass(frozen=True, eq=False)
class Part:
    """One part of the data.

    Args:
        name: "calibration", "validation" or "test".
        blocks: samples of equal shape lie together in one block, so that ragged data (sentences) still batches.
        batch_size: what `batches()` gives unless told otherwise; fewer where samples are large.
        finish: applied to the inputs of each batch as it is taken (images are kept as bytes until then).
    """

    name: str
    blocks: tuple[Batch, ...]
    batch_size: int = 32
    finish: Finish | None = None

    @property
    def n(self) -> int:
        """Number of samples."""
        return sum(block.n for block in self.blocks)

    @property
    def labelled(self) -> bool:
        return bool(self.blocks) and all(block.labels is not None for block in self.blocks)

    @property
    def names(self) -> tuple[str, ...]:
        return self.blocks[0].names if self.blocks else ()

    @property
    def nbytes(self) -> int:
        """Bytes of memory the samples take, as they are kept."""
        return sum(block.nbytes for block in self.blocks)

    def batches(self, batch_size: int | None = None) -> Iterator[Batch]:
        """All samples, always in the same order whatever the size; the last batch of a block may be smaller."""
        for block in self.blocks:
            size = max(1, batch_size or min(self.batch_size, _VALUES // block.values_of_sample))
            for start in range(0, block.n, size):
                batch = block.take(slice(start, start + size))
                yield batch if self.finish is None else replace(batch, inputs=self.finish(batch.inputs))

    def head(self, n: int) -> Part:
        """At most `n` samples: the first ones of each block, in proportion to the blocks' sizes."""
        total, kept, seen, blocks = self.n, 0, 0, []
        for block in self.blocks:
            seen += block.n
            want = min(n, total) * seen // max(total, 1) - kept  # running rounding: the shares add up to n exactly
            kept += want
            if want:
                blocks.append(block.take(slice(0, want)))
        return replace(self, blocks=tuple(blocks))

    def update(self, digest: Any) -> None:
        """Feed everything that decides what the samples are into a hash."""
        digest.update(
            repr((self.name, self.names, self.finish)).encode() if _plain(self.finish) else self.name.encode()
        )
        for block in self.blocks:
            digest.update(repr([(str(t.dtype), tuple(t.shape)) for t in block.tensors]).encode())
            for tensor in block.tensors:
                digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")


@dataclass(frozen=True, eq=False)
class Data:
    """Calibration, validation and test samples, which never mix.

    Statistics are taken on `calibration`, choices are made on `validation`, and `test` is touched by nothing
    but the last measurement.

    Args:
        warnings: what the report must tell (parts too small, samples in two parts, ...).
        source: where it came from, for messages.
    """

    calibration: Part
    validation: Part
    test: Part
    warnings: tuple[str, ...] = ()
    source: str = "data"

    @property
    def parts(self) -> tuple[Part, Part, Part]:
        return (self.calibration, self.validation, self.test)

    @property
    def labelled(self) -> bool:
        """True if validation and test have labels; without, the promise is on agreement with the original."""
        return self.validation.labelled and self.test.labelled

    @property
    def names(self) -> tuple[str, ...]:
        """The inputs' names in the source, or ()."""
        return self.calibration.names

    @property
    def nbytes(self) -> int:
        """Bytes of memory the samples take; they are kept for the whole run."""
        return sum(part.nbytes for part in self.parts)

    def example(self, n: int = 1) -> tuple[Tensor, ...]:
        """Inputs of the first calibration samples, at most `n`: what a network can be traced with."""
        return next(self.calibration.batches(n)).inputs

    def sha256(self) -> str:
        """Hash of every sample of every part: two runs on the same data and seed have the same."""
        digest = hashlib.sha256()
        for part in self.parts:
            part.update(digest)
        return digest.hexdigest()

    def describe(self) -> str:
        """One line for people."""
        sizes = ", ".join(f"{part.n} {part.name}" for part in self.parts)
        return f"{self.source}: {sizes} samples, {'with' if self.labelled else 'without'} labels"

    def check_against(self, outputs: Tensor) -> None:
        """Refuse labels that the network can't give; `outputs` is what it answers to any batch."""
        from lessen.data.check import check_labels

        for part in self.parts:
            check_labels(part, outputs, self.source)


def _plain(finish: Finish | None) -> bool:
    """A callable whose repr says what it does (a frozen dataclass), not where it lies in memory."""
    return finish is None or hasattr(finish, "__dataclass_fields__")
