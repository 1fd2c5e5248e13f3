"""Activation ranges, measured by running the float graph in ONNX Runtime."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from ..errors import LessenError
from .clipping import noise
from .graph import Array, copied, session_on
from .ranges import Histogram, Importance, Range

log = logging.getLogger("lessen")
FIRST_LOOK, ENOUGH = 32, 0.01  # samples before the first look; excess of noise that more samples may still remove
VALUES = 50_000  # of each tensor that must have been seen before it may stop: fewer say little of the tails
CHUNK = 4  # samples that are run at once; all asked-for activations of so many are in memory
LARGE = 2**15  # values of a sample's inputs (181 x 181 pixels) above which samples are run one by one


@dataclass(frozen=True)
class Look:
    """How much was still to be learned when so many samples had been seen.

    Args:
        samples: seen so far.
        excess: how much more quantization noise the ranges of half as many samples make, mean over the tensors.
    """

    samples: int
    excess: float


@dataclass(frozen=True, eq=False)
class Calibration:
    """What was seen, and when more samples stopped mattering.

    Args:
        found: one histogram for each tensor.
        samples: how many were run.
        looks: at 32 samples, 64, 128 ...; the last one's excess tells whether the ranges have settled.
    """

    found: dict[str, Histogram]
    samples: int
    looks: tuple[Look, ...]

    @property
    def settled(self) -> bool:
        return bool(self.looks) and self.looks[-1].excess <= ENOUGH


def histograms(model: ir.Model, tensors: Sequence[str], batches: Iterable[Sequence[Any]]) -> dict[str, Histogram]:
    """What was seen at these tensors of the graph on all samples, one histogram each; nothing is stored.

    Args:
        model: the float graph.
        tensors: names of values in it.
        batches: tuples of inputs [samples, ...], tensors or arrays, in the order of the graph's inputs.

    Raises:
        LessenError: no batches, or NaN or infinity at one of the tensors.
    """
    return calibrated(model, tensors, batches, enough=0.0).found


def calibrated(
    model: ir.Model, tensors: Sequence[str], batches: Iterable[Sequence[Any]],
    importance: Mapping[str, Importance] | None = None, enough: float = ENOUGH,
) -> Calibration:  # fmt: skip
    """`histograms` that stop when they have seen enough: when ranges found on half of the samples do as well.

    Args:
        importance: of the channels of some tensors.
        enough: excess of noise that stops it; 0 looks at every sample.
    """
    found = {name: Histogram(importance=(importance or {}).get(name)) for name in tensors}
    looks: list[Look] = []
    before: dict[str, Range] = {}
    samples, next_look = 0, FIRST_LOOK
    for count, seen in _counted(model, tensors, batches):
        samples += count
        for name, histogram in found.items():
            histogram.add(seen.pop(name))  # each goes when it has been looked at
        if samples < next_look:
            continue
        _finite(found, model)
        now = {name: h.range() for name, h in found.items()}
        if before:
            looks.append(Look(samples, _excess(found, before, now)))
            if looks[-1].excess <= enough and all(h.seen >= VALUES for h in found.values()):
                break
        before, next_look = now, 2 * next_look
    _finite(found, model)
    made = Calibration(found, samples, tuple(looks))
    log.info("activation ranges from %d samples, excess noise %s", samples, [f"{x.excess:.3f}" for x in looks])
    return made


def _excess(found: Mapping[str, Histogram], before: Mapping[str, Range], now: Mapping[str, Range]) -> float:
    """Noise of the earlier ranges by that of the present ones, minus 1, mean over the tensors that have a range."""
    each = [noise(h, before[n]) / max(noise(h, now[n]), 1e-300) - 1 for n, h in found.items() if not now[n].empty]
    return max(float(np.mean(each)), 0.0) if each else 0.0


def _finite(found: Mapping[str, Histogram], model: ir.Model) -> None:
    for name, h in found.items():
        if not (np.isfinite(h.low) and np.isfinite(h.high)):
            raise LessenError(
                f"this activation became NaN or infinite on the calibration data (made by {maker(model, name)})",
                where=name, mend="look for extreme samples, a division by 0 or a layer that overflows before it",
            )  # fmt: skip


def maker(model: ir.Model, name: str) -> str:
    """The operator that makes a tensor, and the weight that it reads."""
    node = next((n for n in model.graph if any(o.name == name for o in n.outputs)), None)
    if node is None:
        return "the input"
    weights = [str(v.name) for v in node.inputs if v is not None and v.const_value is not None]
    return " of ".join([node.op_type, *weights[:1]])


def observed(model: ir.Model, tensors: Sequence[str], batches: Iterable[Sequence[Any]]) -> Iterator[dict[str, Array]]:
    """The values of these tensors, a few samples at a time; `LessenError` when there are no samples."""
    return (seen for _, seen in _counted(model, tensors, batches))


def _counted(
    model: ir.Model, tensors: Sequence[str], batches: Iterable[Sequence[Any]]
) -> Iterator[tuple[int, dict[str, Array]]]:
    """The same with the number of samples."""
    # As many threads as torch was told to use: more of them fight over a machine that has other work.
    session = session_on(
        _exposed(model, tensors), intra_op_num_threads=torch.get_num_threads(), enable_mem_pattern=False
    )
    inputs = [i.name for i in session.get_inputs()]
    samples = 0
    for chunk in chunks(batches, fixed_batch(session)):
        samples += len(chunk[0])
        feed = dict(zip(inputs, chunk, strict=True))
        yield len(chunk[0]), _seen(session, feed, tensors)  # nothing of it stays here while the next is run
    if not samples:
        raise LessenError("there are no calibration samples", mend="give data")


def _seen(session: Any, feed: Mapping[str, Array], tensors: Sequence[str]) -> dict[str, Array]:
    outside = [n for n in tensors if n not in feed]
    made = dict(zip(outside, session.run(outside, dict(feed)), strict=True)) if outside else {}
    return {name: made[name] if name in made else feed[name] for name in tensors}


def chunks(batches: Iterable[Sequence[Any]], fixed: int | None) -> Iterator[tuple[Array, ...]]:
    """Cuts batches into small ones; to exactly `fixed` samples (the last repeated) when the graph wants that.

    A batch whose inputs have no common first axis (a state, a rate) is one sample as it is.
    """
    for batch in batches:
        arrays = tuple(as_array(x) for x in batch)
        if len({a.shape[:1] for a in arrays}) > 1:
            yield arrays
            continue
        size = fixed or (1 if sum(a[:1].size for a in arrays) > LARGE else CHUNK)
        for start in range(0, len(arrays[0]), size):
            part = tuple(a[start : start + size] for a in arrays)
            lack = (fixed or 0) - len(part[0])
            yield tuple(np.concatenate([a, a[-1:].repeat(lack, 0)]) for a in part) if lack > 0 else part


def as_array(x: Any) -> Array:
    array = x.detach().cpu().numpy() if isinstance(x, Tensor) else np.asarray(x)
    return array.astype(np.float32) if array.dtype == np.float64 else array


def fixed_batch(session: Any) -> int | None:
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
