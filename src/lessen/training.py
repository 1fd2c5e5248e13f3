"""One training method on one network: what `apply` does with it, and what the chooser's variants come from."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from .aware import fit_in_turn
from .data import Part, load_data, split
from .errors import LessenError
from .job import example_like
from .models import Model, fold_batchnorm, load, trace
from .propose import chosen_layers
from .train import Lesson, Trained, Training
from .train.blocks_method import Reconstruction
from .train.qat import QuantizationAware


def trained(model: Any, method: Training, data: Any, where: str | tuple[str, ...] = ()) -> nn.Module:
    """A trained copy of the network; the original is not touched.

    Args:
        model: an `nn.Module`, "file.py:factory", or a path.
        method: `RigL(sparsity=0.9, epochs=3)`.
        data: samples to train on, with labels or without; a tenth, at most 1000, is set aside and not trained on.
        where: globs of layers; none means all.

    Raises:
        LessenError: nothing can be trained; a loss or gradient is not finite.
    """
    opened = load(model)
    samples = load_data(data, like=example_like(opened), sizes=split.lessons)
    opened = opened.with_inputs(next(samples.calibration.batches(2)).inputs)
    globs = (where,) if isinstance(where, str) else where
    return fitted(opened, method, (samples.calibration, samples.validation), _silent, where=globs)[0]


def _silent(n: int) -> None:
    """Progress that nobody looks at."""


def fitted(
    model: Model, method: Training, parts: tuple[Part, Part], step: Any, *, seed: int = 0, where: tuple[str, ...] = ()
) -> tuple[nn.Module, Trained]:
    """A copy of the network after the method, and what that tells; `parts` are to train on and to look at."""
    module = fold_batchnorm(model.module, model.inputs)[0] if getattr(method, "folds", False) else model.module
    traced = trace(module, model.inputs)
    left_out = chosen_layers(traced.layers, where, ())
    layers = tuple(layer for layer in traced.layers if not left_out[layer.name])
    teacher, student = copy.deepcopy(model.module).requires_grad_(False), copy.deepcopy(module)
    try:
        lesson = Lesson(teacher, layers, *parts, seed=seed, step=step)
        told: Trained = (fit_in_turn(method, student, lesson)
                         if isinstance(method, (QuantizationAware, Reconstruction))
                         else method.fit(student, lesson))  # fmt: skip
    except LessenError as error:
        places = dict.fromkeys((type(method).__name__, error.where))
        raise LessenError(error.what, where=", ".join(p for p in places if p), mend=error.mend) from error
    student = student if told.module is None else told.module
    with torch.no_grad():
        student(*model.inputs)  # whatever is wrong with what came out is found here
    return student.requires_grad_(False), told
