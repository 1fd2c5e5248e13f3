"""`Bench`: one network laid out for work: its layers, their statistics, and every coding made so far."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from .codings import Coding, Grid
from .errors import LessenError
from .memory import frugal, kept, rest, twin
from .models import Layer, Trace
from .models.put import put_matrix
from .plan import Treatment
from .statistics import Statistics, forget_factor
from .statistics.fallback import fall_backs
from .technique import Technique
from .train.qat_inputs import InputRange

_KEPT_BYTES = 64 * 2**20  # codings kept for another round of the search; or as much as the weights take


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
        trained: how the network was trained before all else (`train.Training`); None if it was not.
        smooth: the strength that these scales were made with; None where nothing was smoothed.
        refold: what its weights were folded with before all else (`AWQ`, `Rotate`); None where nothing was.
        turned: the plan that was coded in turn last, and what came of it.
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
    trained: Any = None
    refold: Any = None
    turned: tuple[dict[str, Treatment], Compressed] | None = None
    _made: OrderedDict[tuple[str, Technique], Coding | LessenError] = field(default_factory=OrderedDict)
    _bytes: int = 0
    _told: dict[tuple[str, Technique], str] = field(default_factory=dict)

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

    def fallen_back(self, layer: Layer, technique: Technique) -> str:
        """What was done instead of what the technique's name promises, and why; "" where it was done as promised."""
        return self._told.get((layer.name, technique), "")

    def _encode(self, layer: Layer, technique: Technique) -> Coding | LessenError:
        with fall_backs() as told:
            try:
                return waiting(technique.encode(layer, self.statistics.get(layer.name, Statistics())))
            except LessenError as error:
                return error
            finally:
                rest()
                if told:
                    self._told[layer.name, technique] = "; ".join(told)

    def _keep(self, key: tuple[str, Technique], made: Coding | LessenError) -> None:
        self._made[key] = made
        self._bytes += _nbytes(made)
        room = max(_KEPT_BYTES, sum(x.weight.nbytes for x in self.traced.layers))
        while self._bytes > room and len(self._made) > 1:
            _, dropped = self._made.popitem(last=False)
            self._bytes -= _nbytes(dropped)


def waiting(coding: Coding) -> Coding:
    """The same; large codes lie in a file until they are read."""
    return replace(coding, codes=kept(coding.codes)) if isinstance(coding, Grid) else coding


def _nbytes(made: Coding | LessenError) -> int:
    return 0 if isinstance(made, LessenError) else sum(t.numel() * t.element_size() for t in made.parts().values())


@dataclass(frozen=True, eq=False)
class Compressed:
    """A compressed network: weights decoded in place, and the codings they came from.

    Args:
        module: a copy of the bench's module that holds the decoded weights; they lie in a file (`memory.twin`).
        layers: all layers, by name.
        codings: the coded ones, by name.
        treatments: what was done to each layer.
        why: for layers that were left as they are, the reason; for coded ones, what was simpler than promised.
        scales: what a layer's decoded matrix is divided by, column by column, to give the parameter.
        inputs: ranges that training learned for the layers' inputs, by layer name; the others are calibrated.
    """

    module: nn.Module
    layers: Mapping[str, Layer]
    codings: Mapping[str, Coding]
    treatments: Mapping[str, Treatment]
    why: Mapping[str, str] = field(default_factory=dict)
    edits: tuple[Any, ...] = ()
    folded: tuple[str, ...] = ()
    scales: Mapping[str, Tensor] = field(default_factory=dict)
    inputs: Mapping[str, InputRange] = field(default_factory=dict)


@frugal()
def realize(bench: Bench, treatments: Mapping[str, Treatment]) -> Compressed:
    """Carries out a plan: encodes each layer, puts the decoded weight in place, and corrects biases."""
    layers = bench.layers
    codings: dict[str, Coding] = {}
    why: dict[str, str] = {}
    module = twin(bench.module)
    for name, treatment in treatments.items():
        if treatment.technique is None:
            why.setdefault(name, "kept: the best choice for the budget")
            continue
        codings[name] = bench.coding(layers[name], treatment.technique)
        if told := bench.fallen_back(layers[name], treatment.technique):
            why[name] = told
        statistics = bench.statistics.get(name, Statistics())
        put_matrix(module, layers[name], codings[name].decode(), statistics.mean, bench.scales.get(name))
        rest()
    forget_factor()
    return Compressed(module, layers, codings, dict(treatments), why, bench.edits, bench.folded, bench.scales)
