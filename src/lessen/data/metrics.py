"""Metrics: what "how good" means, on labels or on agreement with the original network."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lessen.data import scores
from lessen.data.part import Data, Part
from lessen.errors import LessenError, did_you_mean
from lessen.userfile import call, is_function_path, load_function

Rows = Callable[[Any, Any], Tensor]
_RETURNS = "return one number, or one number a sample"
Run = Callable[[tuple[Tensor, ...]], Any]


@dataclass(frozen=True)
class Metric:
    """A figure of merit over a set of samples.

    Args:
        name: as people write it.
        higher_is_better: False for errors.
        rows: (outputs [n, ...], target [n, ...]) -> what one sample contributes, float64 [n] (its score) or [n, k].
        total: rows of all samples -> value, for metrics that are no mean over samples (F1, Spearman).
        against: "labels" or "reference" (the original network's outputs).
        unit: how a drop is counted: "points" (difference x 100) or "relative" (percent of the baseline's value);
            "auto" is points where larger is better and the baseline lies in [-1, 1], else relative.
        needs_all: `rows` can only be taken over all samples at once (outputs are then kept until the end).
    """

    name: str
    higher_is_better: bool
    rows: Rows
    total: Callable[[Tensor], float] | None = None
    against: str = "labels"
    unit: str = "points"
    needs_all: bool = False


@dataclass(frozen=True, eq=False)
class Score:
    """A metric's value on one part.

    Args:
        value: the figure; NaN if the network answered NaN.
        n: number of samples that were scored.
        per_sample: each sample's score [n], where the metric is their mean.
        rows: what each sample contributed [n, k], where it is not; `again(index)` is the value on a resample.
    """

    metric: Metric
    value: float
    n: int
    per_sample: Tensor | None = None
    rows: Tensor | None = None
    again: Callable[[Tensor], float] | None = None


def metric_named(name: str | None, labelled: bool) -> Metric:
    """The metric of that name, or "file.py:function"; None chooses accuracy with labels and cosine without.

    A user's function takes (outputs, labels) of all samples and returns a number or one number a sample. Attributes
    of the function, if set, tell the rest: `higher_is_better` (default True), `unit` (see `Metric`).

    Raises:
        LessenError: an unknown name, or a metric that needs labels on data without.
    """
    name = name or ("accuracy" if labelled else "cosine")
    if is_function_path(name):
        return metric_from(load_function(name), name)
    known = {m.name: m for m in METRICS}
    metric = known.get(name.lower().replace("-", "").replace("_", ""))
    if metric is None:
        mend = did_you_mean(name, [*known, "file.py:function"])
        raise LessenError(f"unknown metric {name!r}", where="--metric", mend=mend)
    if metric.against == "labels" and not labelled:
        without = ", ".join(m.name for m in METRICS if m.against != "labels")
        raise LessenError(
            f"{metric.name} needs labels, the data has none", where="--metric", mend=f"give labels, or use {without}"
        )
    return metric


def metric_for(data: Data, name: str | None = None) -> Metric:
    """`metric_named`, with the default that fits the labels: accuracy for classes, MSE for numbers, cosine without."""
    if name is None and data.labelled:
        labels = data.test.blocks[0].labels
        name = "mse" if labels is not None and labels.is_floating_point() else "accuracy"
    return metric_named(name, data.labelled)


def metric_from(function: Callable[..., Any], name: str) -> Metric:
    """A metric from a user's function (outputs, labels) -> number or one number a sample; labels may be None."""
    higher = bool(getattr(function, "higher_is_better", True))

    def rows(outputs: Any, labels: Any) -> Tensor:
        found = np.asarray(call(function, outputs, labels))
        if found.dtype.kind not in "biuf":
            raise LessenError(f"returns {found.dtype}, not numbers", where=name, mend=_RETURNS)
        return torch.as_tensor(found, dtype=torch.float64)

    return Metric(name, higher, rows, unit=getattr(function, "unit", "auto"), needs_all=True)


def evaluate(metric: Metric, run: Run, part: Part, reference_outputs: list[Tensor] | None = None) -> Score:
    """The metric of `run` on all samples of a part.

    Args:
        metric: from `metric_named`.
        run: inputs of a batch -> outputs (a tensor or array; of a tuple, list or mapping the first counts).
        part: the samples.
        reference_outputs: what the original answered to each of `part.batches()`, for metrics of agreement
            (see `outputs_of`).

    Raises:
        LessenError: outputs that do not fit the labels or the reference.
    """
    rows, held = [], []
    for number, batch in enumerate(part.batches()):
        outputs = first_output(run(batch.inputs))
        target: Tensor | None = batch.labels
        if metric.against == "reference":
            target = reference_outputs[number] if reference_outputs else None
        if target is None and not metric.needs_all:
            mend = "give labels" if metric.against == "labels" else "pass reference_outputs=outputs_of(original, part)"
            raise LessenError(f"{metric.name} has nothing to compare with", where=part.name, mend=mend)
        if metric.needs_all or scores.single(outputs):
            held.append((outputs, target))
        else:
            rows.append(_rows(metric, outputs, target, part.name))
    if metric.needs_all:
        return _user_score(metric, held, part.name)
    if held:  # one number a sample: logit or probability, which only all of them together tell
        rows.append(_rows(metric, _cat([o for o, _ in held]), _cat([t for _, t in held]), part.name))
    return _score(metric, torch.cat(rows))


def outputs_of(run: Run, part: Part) -> list[Tensor]:
    """What `run` answers to each of `part.batches()`: the reference for metrics of agreement."""
    return [first_output(run(batch.inputs)) for batch in part.batches()]


def first_output(outputs: Any) -> Tensor:
    """The tensor that counts, detached, on the CPU: the output itself or the first one of several."""
    while not isinstance(outputs, Tensor | np.ndarray):
        outputs = next(iter(outputs.values())) if hasattr(outputs, "values") else outputs[0]
    return torch.as_tensor(outputs).detach().cpu()


def _cat(tensors: list[Any]) -> Any:
    """One tensor if the shapes allow, else the list as it is."""
    if any(t is None for t in tensors):
        return None
    return torch.cat(tensors) if len({tuple(t.shape[1:]) for t in tensors if t.ndim}) == 1 else tensors


def _rows(metric: Metric, outputs: Any, target: Any, where: str) -> Tensor:
    try:
        rows = metric.rows(outputs, target)
    except (RuntimeError, IndexError) as error:
        shapes = f"outputs {tuple(outputs.shape)} and {metric.against} {tuple(target.shape)}"
        raise LessenError(f"{metric.name} can't score {shapes} ({error})", where=where, mend=scores.MEND) from error
    return rows.double()


def _score(metric: Metric, rows: Tensor) -> Score:
    if metric.total is None:
        return Score(metric, float(rows.mean()) if len(rows) else math.nan, len(rows), per_sample=rows)
    total = metric.total
    return Score(metric, total(rows), len(rows), rows=rows, again=lambda index: total(rows[index]))


def _user_score(metric: Metric, held: list[tuple[Tensor, Any]], where: str) -> Score:
    outputs, labels = _cat([o for o, _ in held]), _cat([t for _, t in held])
    rows = metric.rows(outputs, labels)
    n = sum(len(o) for o, _ in held)
    if rows.ndim == 1 and len(rows) == n:
        return Score(metric, float(rows.mean()), n, per_sample=rows)
    if rows.numel() != 1:
        what = f"{metric.name} gave {tuple(rows.shape)} for {n} samples"
        raise LessenError(what, where=where, mend=_RETURNS)
    again = None
    if isinstance(outputs, Tensor) and (labels is None or isinstance(labels, Tensor)):

        def again(index: Tensor) -> float:
            return float(metric.rows(outputs[index], None if labels is None else labels[index]))

    return Score(metric, float(rows), n, again=again)


accuracy = Metric("accuracy", True, scores.accuracy)
top5 = Metric("top5", True, scores.top5)
f1 = Metric("f1", True, scores.pairs, scores.f1)
mse = Metric("mse", False, scores.squared, unit="relative")
mae = Metric("mae", False, scores.absolute, unit="relative")
spearman = Metric("spearman", True, scores.paired_values, scores.spearman)
cosine = Metric("cosine", True, scores.cosine, against="reference")
agreement = Metric("agreement", True, scores.agreement, against="reference")
kl = Metric("kl", False, scores.kl, against="reference")
METRICS = (accuracy, top5, f1, mse, mae, spearman, cosine, agreement, kl)
