"""`Part` and `Data`: samples held as tensors on the CPU, in three parts that never mix."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lessen.data.batch import Batch, Rows

_VALUES = 2**20  # inputs of a batch: what a network makes of them takes many times their memory
_HASHED = 2**22  # bytes of samples that are copied at one time for their digest

Finish = Callable[[tuple[Tensor, ...]], tuple[Tensor, ...]]


@dataclass(frozen=True, eq=False)
class Part:
    """One part of the data.

    Args:
        name: "calibration", "validation" or "test".
        blocks: samples of equal shape lie together in one block, so that ragged data (sentences) still batches.
            `Rows` are copied only when a batch is taken.
        batch_size: what `batches()` gives unless told otherwise; fewer where samples are large.
        finish: applied to the inputs of each batch as it is taken (images are kept as bytes until then).
    """

    name: str
    blocks: tuple[Batch | Rows, ...]
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
        total, kept, seen, blocks = self.n, 0, 0, list[Batch | Rows]()
        for block in self.blocks:
            seen += block.n
            want = min(n, total) * seen // max(total, 1) - kept  # running rounding: the shares add up to n exactly
            kept += want
            if want:
                blocks.append(block.head(want))
        return replace(self, blocks=tuple(blocks))

    def update(self, digest: Any) -> None:
        """Feed everything that decides what the samples are into a hash."""
        digest.update(
            repr((self.name, self.names, self.finish)).encode() if _plain(self.finish) else self.name.encode()
        )
        for block in self.blocks:
            like = block.take(slice(0, 1)).tensors
            cut = [t.ndim > 0 and not block.whole for t in like]
            shapes = [(block.n, *t.shape[1:]) if c else tuple(t.shape) for t, c in zip(like, cut, strict=True)]
            digest.update(repr([(str(t.dtype), shape) for t, shape in zip(like, shapes, strict=True)]).encode())
            step = max(1, _HASHED // max(sum(t.nbytes for t in like), 1))
            for k, c in enumerate(cut):
                for start in range(0, block.n if c else 1, step):
                    digest.update(_bytes(block.take(slice(start, start + step)).tensors[k] if c else like[k]))


def _bytes(tensor: Tensor) -> Any:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data if tensor.numel() else b""


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
        """Bytes of memory the samples take; they are kept, where they lie, for the whole run."""
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
