"""Running batches of any size through a file that may want one size only."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import LessenError
from .calibrate import as_array
from .graph import Array


def batched(
    run: Callable[[list[Array]], Sequence[Array]], dtypes: Sequence[np.dtype], fixed: int | None, where: str
) -> Callable[[Sequence[Tensor]], tuple[Tensor, ...]]:
    """A session over tensors from one over arrays.

    Args:
        run: from a list of input arrays to the list of output arrays.
        dtypes: what the file wants its inputs in.
        fixed: the only batch size that the file takes; None when it takes any.
        where: the file, for errors.
    """

    def call(inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        if len(inputs) != len(dtypes):
            raise LessenError(f"takes {len(dtypes)} inputs, not {len(inputs)}", where=where)
        arrays = [np.ascontiguousarray(as_array(x), dtype=d) for x, d in zip(inputs, dtypes, strict=True)]
        n = arrays[0].shape[0] if arrays and arrays[0].ndim else 1
        try:
            outputs = run(arrays) if fixed is None or fixed == n else _in_parts(run, arrays, n, fixed)
        except LessenError:
            raise
        except Exception as error:
            shapes = ", ".join(f"{a.shape} {a.dtype}" for a in arrays)
            why = str(error).strip().splitlines()[0][:300]
            raise LessenError(f"does not take inputs {shapes}: {why}", where=where) from error
        return tuple(torch.from_numpy(np.array(o, copy=True)) for o in outputs)

    return call


def first_samples(inputs: Sequence[Tensor], count: int) -> tuple[Tensor, ...]:
    """The first samples of each input; inputs without a common first axis (a state, a rate) are one sample as they are.

    Raises:
        LessenError: there are fewer.
    """
    lengths = {x.shape[0] for x in inputs if x.ndim}
    if len(lengths) > 1 or not lengths:
        return tuple(inputs)
    if min(lengths) < count:
        raise LessenError(f"a batch of {count} can't be made from {min(lengths)} samples")
    return tuple(x[:count] if x.ndim else x for x in inputs)


def _in_parts(run: Callable[[list[Array]], Sequence[Array]], arrays: list[Array], n: int, fixed: int) -> list[Array]:
    """Batches of exactly `fixed`; the last one is filled up by repeating its last sample."""
    results = []
    for start in range(0, n, fixed):
        part = [a[start : start + fixed] for a in arrays]
        lack = fixed - part[0].shape[0]
        results.append([np.array(o) for o in run([np.concatenate([a, a[-1:].repeat(lack, 0)]) for a in part])])
    return [np.concatenate(outs)[:n] for outs in zip(*results, strict=True)]
