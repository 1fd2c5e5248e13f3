"""Activation ranges, measured by running the float graph in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from ..errors import LessenError
from .graph import Array, copied, ort_session, serialized
from .ranges import Histogram

CHUNK = 4  # samples that are run at once; all asked-for activations of so many are in memory


def histograms(model: ir.Model, tensors: Sequence[str], batches: Iterable[Sequence[Any]]) -> dict[str, Histogram]:
    """What was seen at these tensors of the graph, one histogram each; nothing is stored.

    Args:
        model: the float graph.
        tensors: names of values in it.
        batches: tuples of inputs [samples, ...], tensors or arrays, in the order of the graph's inputs.

    Raises:
        LessenError: no batches, or NaN or infinity at one of the tensors.
    """
    found = {name: Histogram() for name in tensors}
    for seen in observed(model, tensors, batches):
        for name, histogram in found.items():
            histogram.add(seen[name])
    for name, h in found.items():
        if not (np.isfinite(h.low) and np.isfinite(h.high)):
            raise LessenError("this activation became NaN or infinite on the calibration data", where=name)
    return found


def observed(model: ir.Model, tensors: Sequence[str], batches: Iterable[Sequence[Any]]) -> Iterator[dict[str, Array]]:
    """The values of these tensors, a few samples at a time; `LessenError` when there are no samples."""
    # As many threads as torch was told to use: more of them fight over a machine that has other work.
    session = ort_session(serialized(_exposed(model, tensors)), intra_op_num_threads=torch.get_num_threads())
    inputs = [i.name for i in session.get_inputs()]
    outside = [n for n in tensors if n not in inputs]
    samples = 0
    for chunk in chunks(batches, _fixed_batch(session)):
        samples += len(chunk[0])
        feed = dict(zip(inputs, chunk, strict=True))
        seen = dict(zip(outside, session.run(outside, feed), strict=True)) if outside else {}
        yield {name: seen[name] if name in seen else feed[name] for name in tensors}
    if not samples:
        raise LessenError("there are no calibration samples", mend="give data")


def chunks(batches: Iterable[Sequence[Any]], fixed: int | None) -> Iterator[tuple[Array, ...]]:
    """Cuts batches into small ones; to exactly `fixed` samples (the last repeated) when the graph wants that."""
    size = fixed or CHUNK
    for batch in batches:
        arrays = tuple(as_array(x) for x in batch)
        for start in range(0, len(arrays[0]), size):
            part = tuple(a[start : start + size] for a in arrays)
            lack = (fixed or 0) - len(part[0])
            yield tuple(np.concatenate([a, a[-1:].repeat(lack, 0)]) for a in part) if lack > 0 else part


def as_array(x: Any) -> Array:
    array = x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _fixed_batch(session: Any) -> int | None:
    first = session.get_inputs()[0].shape
    return first[0] if first and isinstance(first[0], int) else None


def _exposed(model: ir.Model, tensors: Sequence[str]) -> ir.Model:
    """A copy whose outputs are these tensors and nothing else."""
    copy = copied(model)
    graph = copy.graph
    wanted = set(tensors)
    values = [v for node in graph for v in node.outputs if v.name in wanted]
    if not values:
        return copy
    for value in values:
        if value.type is None:
            value.type = ir.TensorType(ir.DataType.FLOAT)
    graph.outputs.clear()
    graph.outputs.extend(values)
    return copy
