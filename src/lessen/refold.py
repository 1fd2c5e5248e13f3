"""Networks that compute the same with weights that suffer less from rounding, each in one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .data import load_data
from .models import fold_and_trace, load
from .models.exact import Refolded
from .models.rescale import rescaled
from .quantize.awq import AWQ
from .statistics import collect


def activation_aware(model: Any, data: Any, how: AWQ | None = None) -> Refolded:
    """The network with the scales of AWQ folded in, wherever that costs no operation at run time.

    Args:
        model: an `nn.Module`, or whatever `lessen.compress` takes; not changed.
        data: samples to calibrate on, as `lessen.compress` takes them.
        how: bits and groups that the weights will be rounded to; `AWQ()`.

    Returns:
        `.module`, the copy; `.folded`, the layers whose columns were scaled; `.left`, those that could not be, and why.
    """
    chosen = how or AWQ()
    samples = load_data(data)
    opened = load(model).with_inputs(next(samples.calibration.batches(2)).inputs)
    module, _, traced = fold_and_trace(opened.module, opened.inputs)
    linear = {x.name: x for x in traced.layers if x.kind == "linear" and x.details.get("uses", 1) == 1}
    known = collect(module, tuple(linear.values()), samples.calibration.batches(), fisher=0)

    def scale(names: Sequence[str]) -> Tensor | None:
        if any(n not in linear or n not in known for n in names):
            return None
        return chosen.scale([linear[n] for n in names], known[names[0]])

    return rescaled(module, opened.inputs, scale)
