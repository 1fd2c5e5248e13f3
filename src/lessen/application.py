"""One technique alone, in one line."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

from torch import nn

from .allocation import allocated
from .at_run_time import round_inputs
from .bench import Bench, realize
from .data import load_data
from .errors import LessenError
from .in_turn import realize_in_turn
from .job import example_like
from .models import fold_and_trace, load
from .plan import Treatment
from .propose import chosen_layers, coded
from .prune.channels import Channels
from .prune.depth import Depth
from .refold import REFOLDS, refold
from .statistics import collect
from .training import trained


def apply(
    model: Any, technique: Any, data: Any = None, where: str | tuple[str, ...] = (), in_turn: bool = False
) -> nn.Module:
    """A copy of the network with every layer that can be held this way held so; the original is not touched.

    Args:
        model: an `nn.Module`, "file.py:factory", or a path.
        technique: one instance, `Uniform(bits=4)`; one that removes structure, `Channels(0.3)` or `Depth(2)` (they look
            at the whole network: `where` is not for them); one that folds something into it, `AWQ()` or `Rotate()`
            (likewise); or one that trains, `RigL(sparsity=0.9)`, on all of `data`.
        data: calibration samples, as for `compress`; None works without statistics (no error feedback).
        where: globs of layers; none means all.
        in_turn: each layer is coded for what the layers coded before it hand it, and makes up for their errors as far
            as it can (see `realize_in_turn`); better with few bits, and takes longer.

    The copy computes with the decoded weights, after `Dynamic` on inputs that it rounds as integer kernels do;
    `lessen.compress` writes files that are really smaller.

    Raises:
        LessenError: not one layer can be held this way; the first reason is given.
    """
    if hasattr(technique, "fit") and not isinstance(technique, type):
        with _modes_kept(model):
            return trained(model, technique, data, where)
    if isinstance(technique, (Channels, Depth)):
        from .search.alone import structured  # it knows everybody, this module too

        return structured(model, technique, data)
    if isinstance(technique, REFOLDS):
        with _modes_kept(model):
            return refold(model, data, technique).module
    if isinstance(technique, type) or not hasattr(technique, "encode"):
        raise LessenError(
            f"{technique!r} can't be applied to one layer", where="apply", mend="give an instance: Uniform(bits=8)"
        )
    if data is None:
        raise LessenError(
            "apply needs a few samples to trace the network", mend="give data=(x, y) or an iterable of batches"
        )
    with _modes_kept(model):
        opened = load(model)
        samples = load_data(data, like=example_like(opened))
        opened = opened.with_inputs(next(samples.calibration.batches(2)).inputs)
        module, folded, traced = fold_and_trace(opened.module, opened.inputs)
        bench = Bench(module, traced, collect(module, traced.layers, samples.calibration.batches()), folded)
        treatments = _treatments(bench, technique, (where,) if isinstance(where, str) else where)
        if in_turn:
            made = realize_in_turn(bench, treatments, samples.calibration.batches())
        else:
            made = realize(bench, treatments)
        result = copy.deepcopy(made.module)
        round_inputs(result, bench.layers, treatments)
        return result


def _treatments(bench: Bench, technique: Any, where: tuple[str, ...]) -> dict[str, Treatment]:
    """What each layer gets; layers that the technique refuses stay as they are."""
    left_out = chosen_layers(bench.traced.layers, where, ())
    layers = [layer for layer in bench.traced.layers if not left_out[layer.name]]
    settings = allocated(technique, layers, bench.statistics)
    treatments, reasons = {}, []
    for layer in layers:
        try:
            treatments[layer.name] = coded(bench, layer, settings[layer.name])[0]
        except LessenError as error:
            reasons.append(str(error))
    if not treatments:
        raise LessenError(
            "no layer can be held this way", where=type(technique).__name__, mend=(reasons or ["no layers"])[0]
        )
    return treatments


@contextlib.contextmanager
def _modes_kept(model: Any) -> Iterator[None]:
    """A network that was training when it was handed in is training afterwards; the work is done in evaluation mode."""
    modes = [(m, m.training) for m in model.modules()] if isinstance(model, nn.Module) else []
    try:
        yield
    finally:
        for m, training in modes:
            m.training = training
