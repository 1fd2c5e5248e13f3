"""A sparsity that is meant for all layers together, divided among them before any of them is encoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from .models import Layer
from .stack import Stack
from .statistics import Statistics
from .technique import Technique


def allocated(
    technique: Technique, layers: Sequence[Layer], statistics: Mapping[str, Statistics]
) -> dict[str, Technique]:
    """Layer name -> the technique as that layer gets it: what a plan records and a replay does again.

    A technique says how by `allocate(layers, statistics) -> Mapping[str, Technique]`; in a stack the first step may.
    """
    if isinstance(technique, Stack):
        first, *rest = technique.steps
        each = allocated(first, layers, statistics)
        return {name: replace(technique, steps=(each[name], *rest)) for name in each}
    share = getattr(technique, "allocate", None)
    return {layer.name: technique for layer in layers} if share is None else dict(share(layers, statistics))
