"""From what people have (arrays, tensors, tuples, dictionaries, loaders) to `Batch`."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lessen.data.batch import Batch, Rows
from lessen.errors import LessenError

LABELS = ("y", "labels", "label", "targets", "target")
FORMS = "give tensors or arrays: x, (x, y), {name: x, ..., 'labels': y}"
_NARROW = {torch.float64: torch.float32, torch.float16: torch.float32, torch.bfloat16: torch.float32}
_WIDE = {np.dtype(np.uint16): np.int64, np.dtype(np.uint32): np.int64, np.dtype(np.uint64): np.int64}


def tensor(value: Any, where: str) -> Tensor:
    """A detached CPU tensor; floats become float32, unsigned integers above 8 bits int64; else nothing is copied.

    Raises:
        LessenError: not numbers (text, objects, ragged lists).
    """
    if isinstance(value, Tensor):
        found = value.detach().cpu()
        return found.to(_NARROW.get(found.dtype, found.dtype))
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise LessenError(f"can't be made an array: {error}", where=where, mend=FORMS) from error
    if array.dtype.kind not in "biuf":
        raise LessenError(f"holds {array.dtype}, not numbers", where=where, mend=FORMS + "; classes as 0, 1, 2, ...")
    wanted = _WIDE.get(array.dtype, np.float32 if array.dtype.kind == "f" else array.dtype.newbyteorder("="))
    array = array.astype(wanted, copy=False)
    array = np.ascontiguousarray(array).reshape(array.shape)  # ascontiguousarray makes 0-dim 1-dim
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of arrays that can't be written; we don't write
        return torch.from_numpy(array)


def label_tensor(value: Any, where: str) -> Tensor:
    """Labels: integers and booleans as int64 ([n, 1] becomes [n]), the rest as float32."""
    found = tensor(value, where)
    if found.is_floating_point():
        return found
    found = found.long()
    return found.squeeze(1) if found.ndim == 2 and found.shape[1] == 1 else found


def to_batch(item: Any, where: str, n_inputs: int | None = None) -> Batch:
    """One batch from a tensor | (inputs, labels) | {name: input, "labels": y} | tuple of inputs.

    Args:
        item: what the user's iterable gave.
        where: for messages.
        n_inputs: how many inputs the network takes, if known: tells (input, labels) from two inputs.

    Raises:
        LessenError: none of these forms, or first axes that disagree with the labels.
    """
    if isinstance(item, Batch):
        return item
    if isinstance(item, Mapping):
        return _from_mapping(item, where)
    if isinstance(item, tuple | list) and not _is_plain_list(item):
        return _from_sequence(tuple(item), where, n_inputs)
    return _batch((tensor(item, where),), None, where)


def _is_plain_list(item: Any) -> bool:
    """A (nested) list of Python numbers: an array, not a list of inputs."""
    return isinstance(item, list) and bool(item) and isinstance(item[0], int | float | list)


def _from_mapping(item: Mapping[Any, Any], where: str) -> Batch:
    names = tuple(str(k) for k in item if k not in LABELS)
    if not names:
        raise LessenError(f"no inputs, only {sorted(map(str, item))}", where=where, mend=FORMS)
    inputs = tuple(tensor(item[k], f"{where}, {k!r}") for k in item if k not in LABELS)
    found = [label_tensor(item[k], f"{where}, {k!r}") for k in item if k in LABELS and item[k] is not None]
    if len(found) > 1:
        raise LessenError(f"labels twice: {sorted(set(item) & set(LABELS))}", where=where, mend="keep one of them")
    return _batch(inputs, found[0] if found else None, where, () if names == ("x",) else names)


def _from_sequence(item: tuple[Any, ...], where: str, n_inputs: int | None) -> Batch:
    if not item:
        raise LessenError("an empty tuple", where=where, mend=FORMS)
    nested = isinstance(item[0], tuple | list | Mapping) and not _is_plain_list(item[0])
    with_labels = len(item) == 2 if nested or n_inputs is None else len(item) == n_inputs + 1
    if not with_labels and nested:
        raise LessenError(f"a tuple of {len(item)} nested things", where=where, mend=FORMS)
    inputs, labels = (item[0], item[1]) if nested else (item, None)
    if with_labels and not nested:
        inputs, labels = item[:-1], item[-1]
    if isinstance(inputs, Mapping):
        batch = _from_mapping(inputs, where)
        names, tensors = batch.names, batch.inputs
        labels = batch.labels if labels is None else labels
    else:
        names, tensors = (), tuple(tensor(t, f"{where}, input {i}") for i, t in enumerate(inputs))
    return _batch(tensors, None if labels is None else label_tensor(labels, f"{where}, labels"), where, names)


def _batch(inputs: tuple[Tensor, ...], labels: Tensor | None, where: str, names: tuple[str, ...] = ()) -> Batch:
    lengths = {t.shape[0] for t in inputs if t.ndim}
    if not lengths:
        raise LessenError("inputs without a batch axis", where=where, mend="stack the samples: [n, ...]")
    batch = Batch(inputs, labels, names, whole=len(lengths) > 1)
    if labels is not None and not batch.whole and (labels.ndim == 0 or len(labels) != batch.n):
        given = f"{batch.n} samples but {len(labels) if labels.ndim else 'a single number for'} labels"
        raise LessenError(given, where=where, mend="give one label a sample")
    return batch


def pool(batches: Iterable[Batch], where: str) -> list[tuple[Rows, Tensor]]:
    """Samples of equal shape put together (not copied), each block with the samples' numbers in the source [n].

    Raises:
        LessenError: no samples, labels in some batches only, or other inputs in some batches.
    """
    kinds: dict[Any, list[tuple[Batch, Tensor]]] = {}
    count, first = 0, None
    for number, batch in enumerate(batches):
        first = first or batch
        same = (len(batch.inputs), batch.names, batch.labels is None)
        if same != (len(first.inputs), first.names, first.labels is None):
            raise LessenError(
                f"batch {number} has {_says(batch)}, batch 0 {_says(first)}", where=where, mend="make all batches alike"
            )
        if batch.n:
            key = number if batch.whole else _signature(batch)
            kinds.setdefault(key, []).append((batch, torch.arange(count, count + batch.n)))
            count += batch.n
    if not count:
        raise LessenError("no samples", where=where, mend="give at least 3 samples, better 1,000")
    return [(Rows.of(tuple(b for b, _ in group)), torch.cat([i for _, i in group])) for group in kinds.values()]


def select(blocks: list[tuple[Rows, Tensor]], wanted: Tensor) -> tuple[Rows, ...]:
    """The samples with the numbers `wanted`, in that order within each block."""
    found = []
    place = torch.full((sum(len(ids) for _, ids in blocks),), -1)
    for block, ids in blocks:
        place.fill_(-1)
        place[ids] = torch.arange(len(ids))
        local = place[wanted]
        if (local >= 0).any():
            found.append(Rows(block.pieces, local[local >= 0]))
    return tuple(found)


def _says(batch: Batch) -> str:
    names = f" {list(batch.names)}" if batch.names else ""
    return f"{len(batch.inputs)} inputs{names} {'without' if batch.labels is None else 'with'} labels"


def _signature(batch: Batch) -> Any:
    return tuple((t.dtype, tuple(t.shape[1:])) if t.ndim else (t.dtype, t.item()) for t in batch.tensors)
