"""`Bench`: one network laid out for work: its layers, their statistics, and every coding made so far."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .codings import Coding
from .errors import LessenError
from .models import Layer, Trace
from .plan import Treatment
from .statistics import Statistics
from .technique import Technique

_KEPT_BYTES = 512 * 2**20  # codings kept for another round of the search


@dataclass(eq=False)
class Bench:
    """A network (batch norms folded, channels removed) and what is known of it.

    Args:
        module: the network; never changed.
        traced: its layers.
        statistics: by layer name.
        folded: paths of the batch norms that were folded away.
        channels: units already removed from each group of the original.
        edits: the same removals as replayable edits.
        harm: predicted harm of those removals.
        scales: by layer name, float32 [columns]: its layer here holds the parameter times this (see `smoothing`).
        smooth: the strength that these scales were made with; None where nothing was smoothed.
    """

    module: nn.Module
    traced: Trace
    statistics: Mapping[str, Statistics]
    folded: tuple[str, ...] = ()
    channels: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    edits: tuple[Any, ...] = ()
    harm: float = 0.0
    scales: Mapping[str, Tensor] = field(default_factory=dict)
    smooth: float | None = None
    _made: OrderedDict[tuple[str, Technique], Coding | LessenError] = field(default_factory=OrderedDict)
    _bytes: int = 0

    @property
    def layers(self) -> dict[str, Layer]:
        return {layer.name: layer for layer in self.traced.layers}

    def coding(self, layer: Layer, technique: Technique) -> Coding:
        """The layer's weight held this way; made once, kept while there is room."""
        key = (layer.name, technique)
        if key not in self._made:
            self._keep(key, self._encode(layer, technique))
        self._made.move_to_end(key)
        made = self._made[key]
        if isinstance(made, LessenError):
            raise made
        return made

    def _encode(self, layer: Layer, technique: Technique) -> Coding | LessenError:
        try:
            return technique.encode(layer, self.statistics.get(layer.name, Statistics()))
        except LessenError as error:
            return error

    def _keep(self, key: tuple[str, Technique], made: Coding | LessenError) -> None:
        self._made[key] = made
        self._bytes += _nbytes(made)
        while self._bytes > _KEPT_BYTES and len(self._made) > 1:
            _, dropped = self._made.popitem(last=False)
            self._bytes -= _nbytes(dropped)


def _nbytes(made: Coding | LessenError) -> int:
    return 0 if isinstance(made, LessenError) else sum(t.numel() * t.element_size() for t in made.parts().values())


@dataclass(frozen=True, eq=False)
class Compressed:
    """A compressed network: weights decoded in place, and the codings they came from.

    Args:
        module: a copy of the bench's module that holds the decoded weights.
        layers: all layers, by name.
        codings: the coded ones, by name.
        treatments: what was done to each layer.
        why: for layers that were left as they are, the reason.
        scales: what a layer's decoded matrix is divided by, column by column, to give the parameter.
    """

    module: nn.Module
    layers: Mapping[str, Layer]
    codings: Mapping[str, Coding]
    treatments: Mapping[str, Treatment]
    why: Mapping[str, str] = field(default_factory=dict)
    edits: tuple[Any, ...] = ()
    folded: tuple[str, ...] = ()
    scales: Mapping[str, Tensor] = field(default_factory=dict)


def realize(bench: Bench, treatments: Mapping[str, Treatment]) -> Compressed:
    """Carries out a plan: encodes each layer, puts the decoded weight in place, and corrects biases."""
    layers = bench.layers
    codings: dict[str, Coding] = {}
    why: dict[str, str] = {}
    module = copy.deepcopy(bench.module)
    for name, treatment in treatments.items():
        if treatment.technique is None:
            why.setdefault(name, "kept: the best choice for the budget")
            continue
        codings[name] = bench.coding(layers[name], treatment.technique)
        statistics = bench.statistics.get(name, Statistics())
        put_weight(module, layers[name], codings[name], statistics, bench.scales.get(name))
    return Compressed(module, layers, codings, dict(treatments), why, bench.edits, bench.folded, bench.scales)


@torch.no_grad()
def put_weight(
    module: nn.Module, layer: Layer, coding: Coding, statistics: Statistics, scale: Tensor | None = None
) -> None:
    """Sets the layer's parameter to the decoded matrix and moves its bias by the mean error that this makes.

    With a `scale` [columns] layer, coding and statistics are those of the smoothed layer, the parameter is not.

    E[y] - E[y'] = (W - W') E[x] is added to the bias (Nagel et al. 2019, sec. 4.2), where there is a bias to move.
    """
    owner, leaf = module.get_submodule(layer.module), layer.name.rpartition(".")[2]
    matrix = coding.decode()
    bias = getattr(owner, leaf.replace("weight", "bias"), None) if leaf.endswith("weight") else None
    if isinstance(bias, Tensor) and statistics.mean is not None and layer.kind in ("linear", "conv"):
        bias.add_(_mean_error(layer.matrix - matrix, statistics.mean).to(bias.dtype))
    getattr(owner, leaf).copy_(layer.from_matrix(matrix if scale is None else matrix / scale))


def _mean_error(delta: Tensor, mean: Tensor) -> Tensor:
    split = delta.reshape(mean.shape[0], -1, delta.shape[1])
    return (split @ mean[:, :, None]).flatten()
