"""`Job`: the model, the data and the demands, opened and checked against each other before any work."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .budget import Budget
from .data import Data, Metric, load_data, metric_for, metric_from, split
from .data.scores import single
from .errors import LessenError
from .models import Model, load
from .quantize import Dynamic
from .statistics.losses import error_of_outputs, sampled_labels
from .targets import Target
from .targets import target as target_named
from .techniques import named


@dataclass(frozen=True, eq=False)
class Job:
    """What is to be done, with everything at hand.

    Args:
        model: with example inputs.
        data: calibration, validation and test.
        metric: what the promise is about.
        budget: what is demanded.
        target: where the result will run.
        using: techniques, as types (all their settings) or instances.
        train: data to fine-tune on, or None.
    """

    model: Model
    data: Data
    metric: Metric
    budget: Budget
    target: Target
    using: tuple[Any, ...]
    train: Data | None = None
    seed: int = 0

    @property
    def loss(self) -> Callable[[Any, Any], Tensor]:
        """What the Fisher information is of: cross entropy for a classifier, relative output error otherwise.

        A single number for a sample has no classes to draw a label from: its cross entropy would be 0 whatever it is.
        """
        labels = next(self.data.validation.batches(1)).labels
        if labels is None or labels.is_floating_point() or self.metric.name not in ("accuracy", "top5", "f1"):
            return error_of_outputs
        with torch.no_grad():
            output = _first(self.model.module(*self.model.inputs))
        return error_of_outputs if single(output) else sampled_labels


@dataclass(frozen=True)
class Options:
    """What a job may be told besides.

    Args:
        metric: name, "file.py:function", a function, or None (accuracy with labels, cosine without).
        train: data to fine-tune on, or None.
        seed: of every private generator.
        trust: whether pickled models may be opened.
    """

    metric: Any = None
    train: Any = None
    seed: int = 0
    trust: bool = False


def open_job(model: Any, data: Any, budget: Any, target: Any, using: Any, options: Options = Options()) -> Job:
    """Opens everything and tries the network on the first samples, so that what is wrong is said at once."""
    seed, train = options.seed, options.train
    opened = load(model, trust=options.trust)
    place = target_named(target)
    samples = load_data(data, seed=seed, like=example_like(opened))
    opened = opened.with_inputs(next(samples.calibration.batches(2)).inputs)
    chosen = _metric(options.metric, samples)
    if chosen.against == "labels" and samples.labelled:
        with torch.no_grad():
            samples.check_against(_first(opened.module(*opened.inputs)))
    techniques = named(using)
    _executable(place, techniques if using is not None else ())
    lessons = None if train is None else load_data(train, seed=seed, like=opened.inputs, sizes=split.lessons)
    return Job(opened, samples, chosen, Budget.of(budget), place, techniques, lessons, seed)


def _executable(place: Target, asked: tuple[Any, ...]) -> None:
    """`LessenError` where something was named that the target can't do at all."""
    wanted = [t for t in asked if (t if isinstance(t, type) else type(t)) is Dynamic]
    if wanted and not place.executes:
        raise LessenError(
            f"{place.name} computes in float and rounds no inputs at run time", where="--using dynamic",
            mend="--target onnxruntime or openvino; for a small file --using uniform",
        )  # fmt: skip


def example_like(model: Model) -> Any:
    """What the network says of its own inputs: tensors of the right shape by name; else how many it takes, or None."""
    names, shapes = (getattr(model.module, k, None) for k in ("input_names", "input_shapes"))
    dtypes = getattr(model.module, "input_dtypes", None)
    if not names or shapes is None or dtypes is None:
        return _needed(model.module)
    if any(not isinstance(d, int) for shape in shapes for d in shape[1:]):
        return None
    return {n: torch.zeros([1, *shape[1:]], dtype=t) for n, shape, t in zip(names, shapes, dtypes, strict=True)}


def _needed(module: nn.Module) -> int | None:
    """How many inputs `forward` can't do without, which tells (x1, x2) from (x, y); None where it may be one."""
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return None
    needed = sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
    return needed if needed > 1 else None


def _metric(metric: Any, data: Data) -> Metric:
    if isinstance(metric, Metric):
        return metric
    if callable(metric):
        return metric_from(metric, getattr(metric, "__name__", "metric"))
    return metric_for(data, metric)


def _first(output: Any) -> Tensor:
    from .data.metrics import first_output

    found = first_output(output)
    if not found.numel():
        raise LessenError("the network's output is empty")
    return found
