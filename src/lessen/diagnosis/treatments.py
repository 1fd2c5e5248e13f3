"""The mended file in the terms of a plan, so that `lessen apply` can make one like it from the original."""

from __future__ import annotations

import contextlib

from ..errors import LessenError
from ..models import Layer, fold_and_trace
from ..plan import Plan, Treatment
from ..quantize import Uniform
from ..targets.locate import locate
from .pair import Pair
from .state import State
from .units import Unit, Weight


def plan_of(pair: Pair, state: State) -> Plan | None:
    """Each layer's bits, step per channel or tensor, and whether it runs on integers; ranges are lessen's own.

    Returns:
        None where the original can't be traced, or none of its layers is in the file.
    """
    job = pair.job
    _, _, traced = fold_and_trace(job.model.module, job.model.inputs)
    layers = {_initializer(pair, layer): layer for layer in traced.layers}
    found: dict[str, Treatment] = {}
    places = {(u.name, w.index): (u, w) for u in state.units for w in u.weights}
    for match in pair.matches:
        layer = layers.get(match.original.name)
        unit, weight = places.get((match.unit, match.weight.index), (None, None))
        if layer is not None and unit is not None and weight is not None:
            treatment = _treatment(unit, weight)
            if treatment is not None:
                found[layer.name] = treatment
    if not found:
        return None
    return Plan(job.target.name, found, {}, job.seed, job.model.sha256(), job.data.sha256())


def _initializer(pair: Pair, layer: Layer) -> str:
    site = locate(pair.float_graph, layer)
    return layer.name if site is None else str(site.value.name)


def _treatment(unit: Unit, weight: Weight) -> Treatment | None:
    """None for a weight in float, or one that is no uniform grid."""
    if not weight.scales or not 2 <= weight.bits <= 16:
        return None
    per: str | int = "tensor" if weight.scales == 1 else "channel"
    with contextlib.suppress(LessenError):
        return Treatment(Uniform(weight.bits, per), 8 if unit.reads else None)
    return None
