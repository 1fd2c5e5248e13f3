"""One technique alone, in one line."""

from __future__ import annotations

from typing import Any

from torch import nn

from .bench import Bench, realize
from .data import load_data
from .errors import LessenError
from .models import fold_batchnorm, load, trace
from .plan import Treatment
from .propose import chosen_layers
from .statistics import collect


def apply(model: Any, technique: Any, data: Any = None, where: str | tuple[str, ...] = ()) -> nn.Module:
    """A copy of the network with every layer that can be held this way held so; the original is not touched.

    Args:
        model: an `nn.Module`, "file.py:factory", or a path.
        technique: one instance, `Uniform(bits=4)`.
        data: calibration samples, as for `compress`; None works without statistics (no error feedback).
        where: globs of layers; none means all.

    The copy computes with the decoded weights; `lessen.compress` writes files that are really smaller.

    Raises:
        LessenError: not one layer can be held this way; the first reason is given.
    """
    if isinstance(technique, type) or not hasattr(technique, "encode"):
        raise LessenError(
            f"{technique!r} can't be applied to one layer", where="apply", mend="give an instance: Uniform(bits=8)"
        )
    opened = load(model)
    if data is None:
        raise LessenError(
            "apply needs a few samples to trace the network", mend="give data=(x, y) or an iterable of batches"
        )
    samples = load_data(data)
    opened = opened.with_inputs(next(samples.calibration.batches(2)).inputs)
    module, folded = fold_batchnorm(opened.module, opened.inputs)
    traced = trace(module, opened.inputs)
    bench = Bench(module, traced, collect(module, traced.layers, samples.calibration.batches()), folded)
    allowed = chosen_layers(traced.layers, (where,) if isinstance(where, str) else where, ())
    treatments, reasons = {}, []
    for layer in traced.layers:
        if not allowed[layer.name]:
            try:
                bench.coding(layer, technique)
                treatments[layer.name] = Treatment(technique)
            except LessenError as error:
                reasons.append(str(error))
    if not treatments:
        raise LessenError(
            "no layer can be held this way", where=type(technique).__name__, mend=(reasons or ["no layers"])[0]
        )
    return realize(bench, treatments).module
