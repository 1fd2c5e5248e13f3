"""`State`: a file under repair, and what its constants are in the original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import onnx_ir as ir

from ..targets.calibrate import histograms
from ..targets.graph import Array, copied, drop_unused
from ..targets.ranges import Histogram
from .normal import normal, with_outputs_named
from .pair import Pair
from .restore import Exact, restored
from .units import BIAS, Unit, units_of

Place = tuple[str, int]  # unit, index of its input


@dataclass(frozen=True, eq=False)
class State:
    """A quantized file and the float network that it stands for.

    Args:
        file: the graph that is written.
        graph: the same with every quantized operator in the form that can be put back to float.
        units: of `graph`.
        weights: unit and input index -> the constant in float.
        axes: of each of them, the axis that counts outputs.
        biases: unit -> its bias in float.
        batches: inputs that ranges are measured on.
    """

    file: ir.Model
    graph: ir.Model
    units: tuple[Unit, ...]
    weights: Mapping[Place, Array]
    axes: Mapping[Place, int]
    biases: Mapping[str, Array]
    batches: Sequence[Sequence[Any]] = field(repr=False)

    @classmethod
    def of(cls, pair: Pair, batches: Sequence[Sequence[Any]]) -> State:
        """The state before any mend."""
        places = {(m.unit, m.weight.index): m for m in pair.matches}
        biases = {u.name: u.bias for u in pair.units if u.bias is not None}
        biases |= {m.unit: m.bias for m in pair.matches if m.bias is not None}
        return cls(pair.file, pair.graph, pair.units, {k: m.exact for k, m in places.items()},
                   {k: m.axis for k, m in places.items()}, biases, batches)  # fmt: skip

    @property
    def exact(self) -> Exact:
        """Of each unit, its constants in float."""
        found: dict[str, dict[int, Array]] = {}
        kinds = {u.name: u.kind for u in self.units}
        for (unit, index), array in self.weights.items():
            found.setdefault(unit, {})[index] = array
        for unit, bias in self.biases.items():
            if unit in kinds:
                found.setdefault(unit, {})[BIAS[kinds[unit]]] = bias
        return {k: v for k, v in found.items() if k in kinds}

    def edited(self, file: ir.Model, **changed: Any) -> State:
        """The state with another file; `weights` and `biases` if they were rescaled."""
        graph = with_outputs_named(normal(drop_unused(file)))
        return replace(self, file=file, graph=graph, units=units_of(graph), **changed)

    def copy(self) -> ir.Model:
        """A graph of one's own to edit."""
        return copied(self.file)

    def histograms(self, tensors: Sequence[str]) -> dict[str, Histogram]:
        """What these tensors hold in the float network, over all batches."""
        return histograms(restored(self.graph, self.units, self.exact), tensors, self.batches)
