"""What data must hold before anything is computed from it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from lessen.data.batch import Batch, Rows
from lessen.data.part import Part
from lessen.errors import LessenError

_STRETCH = 2**20  # values that are looked at in one go
IGNORED = -100  # PyTorch's and transformers' label for "do not score this position"
_LEAK_BYTES = 1 << 30  # above this, looking for repeated samples costs more than it tells


def check_finite(blocks: Sequence[tuple[Rows, Tensor]], where: str) -> None:
    """Refuse NaN and infinity, naming the first sample that has one."""
    for block, ids in blocks:
        for number in range(len(block.pieces[0].tensors)):
            rows = [i for i, finite in enumerate(_finite(block, number)) if not finite]
            if rows:
                first = block.pieces[0]
                what = "labels" if number == len(first.inputs) else f"input {_name(first, number)}"
                raise LessenError(
                    f"NaN or infinity in {what} of sample {int(ids[rows[0]])} ({len(rows)} samples in all)",
                    where=where,
                    mend="drop these samples or replace the values",
                )


def _finite(block: Rows, number: int) -> Iterator[bool]:
    """Of each sample; of a tensor that all share or that can't be cut, once. A stretch of rows at a time."""
    for piece in block.pieces:
        column = piece.tensors[number]
        cut = column.ndim > 0 and not piece.whole
        rows = column if cut else column[None]
        if not column.is_floating_point():
            continue
        for some in rows.split(max(1, _STRETCH // max(rows[:1].numel(), 1))):
            yield from torch.isfinite(some).reshape(len(some), -1).all(1).tolist()


def fit(batch: Batch, like: Mapping[str, Tensor] | tuple[Tensor, ...], where: str) -> Batch:
    """The batch with the number, rank, layout and dtype of inputs that the network takes (`like`, batched).

    If both name their inputs they are matched by name, and inputs that the network does not take are left out.
    Lengths that may vary between samples (sequence length, height and width) are left to the network.

    Raises:
        LessenError: another number of inputs, another rank, channels or features, or floats where indices belong.
    """
    if isinstance(like, Mapping):
        batch, like = (_by_name(batch, tuple(like), where) if batch.names else batch), tuple(like.values())
    if len(batch.inputs) != len(like):
        raise LessenError(
            f"{len(batch.inputs)} inputs, the network takes {len(like)}", where=where, mend="give (inputs..., labels)"
        )
    inputs = tuple(
        _fit_one(t, example, f"{where}, input {_name(batch, i)}")
        for i, (t, example) in enumerate(zip(batch.inputs, like, strict=True))
    )
    return replace(batch, inputs=inputs)


def _by_name(batch: Batch, names: tuple[str, ...], where: str) -> Batch:
    """The inputs that the network names, in its order; one input needs no matching name."""
    given = batch.by_name
    if len(names) == len(given) == 1:
        return batch
    missing = [name for name in names if name not in given]
    if missing:
        raise LessenError(
            f"no input {missing[0]!r}, only {list(given)}", where=where, mend="the network takes " + ", ".join(names)
        )
    return replace(batch, inputs=tuple(given[name] for name in names), names=names)


def _fit_one(given: Tensor, example: Tensor, where: str) -> Tensor:
    if given.is_floating_point() and not example.is_floating_point():
        raise LessenError(f"floats where the network takes {example.dtype}", where=where, mend="give integer indices")
    # features of [n, f] and channels of [n, c, h, w] can't vary; integers are indices, in sequences of any length
    fixed = example.ndim in (2, 4) and example.is_floating_point()
    if given.ndim != example.ndim or (fixed and given.shape[1] != example.shape[1]):
        raise LessenError(
            f"samples of shape {tuple(given.shape[1:])}, the network takes {tuple(example.shape[1:])}",
            where=where,
            mend=_mend_shape(given, example),
        )
    return given.to(example.dtype)


def _mend_shape(given: Tensor, example: Tensor) -> str:
    if given.ndim == example.ndim == 4 and given.shape[3] == example.shape[1]:
        return "channels are last: x.transpose(0, 3, 1, 2)"
    if given.ndim == 3 and example.ndim == 4 and example.shape[1] == 1:
        return "add the channel axis: x[:, None]"
    if given.ndim == example.ndim - 1 and tuple(given.shape) == tuple(example.shape[1:]):
        return "add the batch axis: x[None]"
    if given.ndim > 2 and example.ndim == 2 and given[0].numel() == example.shape[1]:
        return "flatten the samples: x.reshape(len(x), -1)"
    return "bring the samples into this shape"


def check_labels(part: Part, outputs: Tensor, where: str) -> None:
    """Refuse class labels outside the network's classes.

    Args:
        outputs: what the network answers to any batch, [n, classes], [n, ..., classes] or [n, classes, ...].
    """
    for block in part.blocks:
        labels = block.labels
        if labels is None or labels.is_floating_point() or outputs.ndim < 2 or not labels.numel():
            continue
        if labels.ndim == 1:
            classes = outputs.shape[1] if outputs.ndim == 2 else 0
        else:
            classes = max(outputs.shape[1], outputs.shape[-1]) if outputs.ndim == labels.ndim + 1 else 0
        if classes < 2:
            continue  # one output: regression or a single probability, any number may be right
        wrong = (labels >= classes) | ((labels < 0) & (labels != IGNORED))
        if wrong.any():
            first = int(labels[wrong][0])
            raise LessenError(
                f"label {first} in the {part.name} part ({int(wrong.sum())} such), the network has {classes} classes",
                where=where,
                mend="number the classes 0, 1, 2, ... in the order of the network's outputs",
            )


def leaks(parts: Sequence[Part]) -> list[str]:
    """Warnings for samples that lie, bit for bit, in two parts."""
    if sum(part.nbytes for part in parts) > _LEAK_BYTES:
        return []
    seen = {part.name: [d for b in part.blocks for d in _digests(b)] for part in parts}
    found = []
    for earlier, later in (("calibration", "test"), ("validation", "test"), ("calibration", "validation")):
        known = set(seen[earlier])
        count = sum(d in known for d in seen[later])
        if count:
            found.append(f"{count} of {len(seen[later])} {later} samples also lie in the {earlier} part")
    return found


def _digests(block: Batch | Rows) -> Iterator[bytes]:
    """Of the inputs of each sample."""
    step = max(1, _STRETCH // block.values_of_sample)
    for start in range(0, block.n, step):
        some = block.take(slice(start, start + step))
        for i in range(some.n):
            digest = hashlib.blake2b(digest_size=16)
            for t in some.inputs:
                own = t if some.whole or not t.ndim else t[i]
                digest.update(own.contiguous().reshape(-1).view(torch.uint8).numpy().data)
            yield digest.digest()


def _name(batch: Batch, number: int) -> str:
    return repr(batch.names[number]) if batch.names else str(number)
