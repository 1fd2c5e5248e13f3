"""What a batch may be: a tensor, a tuple of inputs, or anything with `.inputs`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor


def inputs_of(batch: Any) -> tuple[Tensor, ...]:
    """The inputs in the order of `forward`."""
    inputs = getattr(batch, "inputs", batch)
    return (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)


def count(batch: Any) -> int:
    """Samples in a batch: its own `n`, else the length of the first input with an axis."""
    n = getattr(batch, "n", None)
    return n if isinstance(n, int) else next((len(x) for x in inputs_of(batch) if x.ndim), 1)


def cut(batches: Iterable[Any], samples: int, size: int) -> Iterator[Any]:
    """The first `samples` samples in batches of at most `size`, where they can be cut; at least one batch."""
    left = max(samples, 1)
    for batch in batches:
        n = count(batch)
        for start in range(0, n, size) if _can_cut(batch, n) else (0,):
            if left <= 0:
                return
            part = _cut(batch, slice(start, min(start + size, start + left))) if _can_cut(batch, n) else batch
            yield part
            left -= count(part)


def after(batches: Iterable[Any], samples: int) -> Iterator[Any]:
    """All but the first `samples` samples; of a batch that can't be cut all or nothing."""
    for batch in batches:
        n = count(batch)
        if samples < n:
            yield _cut(batch, slice(samples, n)) if samples else batch
        samples = max(samples - n, 0)


def _can_cut(batch: Any, n: int) -> bool:
    if hasattr(batch, "inputs"):
        return hasattr(batch, "take") and not getattr(batch, "whole", False)
    return isinstance(batch, (Tensor, tuple, list)) and all(len(x) == n for x in inputs_of(batch) if x.ndim)


def _cut(batch: Any, where: slice) -> Any:
    if hasattr(batch, "inputs"):
        return batch.take(where)
    return tuple(x[where] if x.ndim else x for x in inputs_of(batch))
