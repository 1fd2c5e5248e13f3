"""`Exporter`: a compressed network becomes a file of the target."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from .bench import Bench, Compressed
from .codings import Coding, Dense, LowRank, Sparse
from .data import Part
from .plan import Treatment
from .targets import Coded, Execution, Range, Smoothed, Target, float_onnx
from .targets.affine import rewritten
from .targets.coded import CALIBRATED
from .targets.export import PERMUTED
from .targets.learned import check_bits, with_learned
from .targets.trial import Answers, answers_rounded, disturbance

WAYS: Mapping[int | str | None, Execution] = {
    None: "weight", 8: "int8", 16: "int8", "static": "static", "dynamic": "dynamic", "token": "token",
}  # fmt: skip


@dataclass(eq=False)
class Exporter:
    """Writes files of one bench: its float graph is exported once, activation ranges are measured once.

    Args:
        target: where the files will run.
        bench: the network they are made of.
        inputs: example inputs.
        calibration: what activation ranges are measured on.
        smoothed: the bench's network with its linear layers' inputs scaled; None for the network as it is.
    """

    target: Target
    bench: Bench
    inputs: tuple[Tensor, ...]
    calibration: Part
    smoothed: Smoothed | None = None
    graph: ir.Model = field(init=False)
    _ranges: dict[str, Range] = field(default_factory=dict)
    _between: tuple[dict[str, LowRank], dict[str, Range]] = field(default_factory=lambda: ({}, {}))

    def __post_init__(self) -> None:
        made = self.smoothed
        self.graph = float_onnx(self.bench.module, self.inputs) if made is None else made.model

    def write_original(self, path: Path) -> Path:
        """The network in float32."""
        return self.target.export(self.graph, path, None, {})

    def write(self, compressed: Compressed, path: Path) -> Path:
        """The compressed network."""
        coded = coded_of(compressed)
        graph = self.graph_of(compressed)
        return self.target.export(graph, path, coded, self._ranges_of(compressed, graph, coded))

    def graph_of(self, compressed: Compressed) -> ir.Model:
        """The float graph with the parameters of now (corrected biases, trained norms), but for coded weights.

        Those keep the values that they had before coding: that is how a target finds them.
        """
        gains = {} if self.smoothed is None else self.smoothed.gains
        return _patched(self.graph, self.bench.module, compressed, gains)

    def _ranges_of(self, compressed: Compressed, graph: ir.Model, coded: Coded) -> Mapping[str, Range]:
        """Ranges that were learned in training go before those that are calibrated."""
        calibrated, rules = self._ranges_for(graph, coded), getattr(self.target, "rules", None)
        if not compressed.inputs or rules is None:
            return calibrated
        check_bits({name: r.bits for name, r in compressed.inputs.items()})
        learned = {name: Range(r.low, r.high) for name, r in compressed.inputs.items()}
        return with_learned(graph, coded, rules, calibrated, learned)

    def _ranges_for(self, graph: ir.Model, coded: Coded) -> Mapping[str, Range]:
        """Ranges of every activation that could be quantized; measured at the first need, for all plans alike."""
        if not any(how in CALIBRATED for how in coded.execution.values()):
            return {}
        self.calibrate()
        missing = set(self._needed(graph, coded)) - set(self._ranges)
        if not missing:
            return self._ranges
        factored = {n: c for n, c in coded.codings.items() if isinstance(c, LowRank)}
        same = {n: id(c) for n, c in factored.items()} == {n: id(c) for n, c in self._between[0].items()}
        if not same or not missing <= set(self._between[1]):  # what lies between two factors depends on the plan
            self._between = (factored, dict(self.target.ranges(self.graph, coded, self._batches())))
        return self._between[1] | self._ranges

    def disturbance(self, how: Execution = "int8") -> float:
        """What rounding every activation that can be rounded does to the outputs; inf where the target rounds none."""
        rules = getattr(self.target, "rules", None)
        if rules is None:
            return float("inf")
        if how in CALIBRATED:
            self.calibrate()
        return disturbance(self.graph, self._everything(how), self._ranges, rules, self._batches())

    def answers_rounded(
        self, layers: Collection[str], samples: int, how: Execution = "int8"
    ) -> Iterator[tuple[str, Answers, Answers]]:
        """(layer, the float network's answers, those with nothing but its activations rounded), for these layers."""
        if how in CALIBRATED:
            self.calibrate()
        every, rules = self._everything(how), self.target.rules  # type: ignore[attr-defined]
        only = {n: way if n in layers else "float" for n, way in every.execution.items()}
        return answers_rounded(
            self.graph, replace(every, execution=only), self._ranges, rules, self._batches(), samples
        )

    def calibrate(self) -> None:
        """Measures the range of every activation of the network that could be quantized, once."""
        if not self._ranges and getattr(self.target, "rules", None) is not None:
            self._ranges = dict(self.target.ranges(self.graph, self._everything(), self._batches()))

    def _everything(self, how: Execution = "int8") -> Coded:
        """Every layer on integers."""
        layers = self.bench.traced.layers
        fisher = {n: s.G for n, s in self.bench.statistics.items() if s.G is not None}
        return Coded(layers, {}, dict.fromkeys((x.name for x in layers), how), fisher)

    def _batches(self) -> Iterator[tuple[Tensor, ...]]:
        return (b.inputs for b in self.calibration.batches())

    def _needed(self, graph: ir.Model, coded: Coded) -> tuple[str, ...]:
        from .targets.qdq import activations

        rules = getattr(self.target, "rules", None)
        return () if rules is None else activations(graph, coded, rules).tensors


def coded_of(compressed: Compressed) -> Coded:
    """The plan in the terms of a file."""
    layers = tuple(compressed.layers.values())
    execution = {
        name: _execution(compressed.treatments.get(name, Treatment()), compressed.codings.get(name))
        for name in compressed.layers
    }
    return Coded(layers, compressed.codings, execution)


def _execution(treatment: Treatment, coding: Coding | None) -> Execution:
    if coding is None or isinstance(coding, (Dense, Sparse)):
        return "float"
    if isinstance(coding, LowRank) and treatment.activations is None:
        return "float" if isinstance(coding.left, Dense) else "weight"
    return WAYS[treatment.activations]


def _patched(graph: ir.Model, before: nn.Module, compressed: Compressed, gains: Mapping[str, np.ndarray]) -> ir.Model:
    old, new = before.state_dict(), compressed.module.state_dict()
    named = getattr(before, "initializer_of", lambda name: (name, False))
    held = {old[name].data_ptr() for name in compressed.codings if name in old}  # by whatever name: weights are shared
    changed = [k for k, v in new.items() if k in old and old[k].data_ptr() not in held and not torch.equal(old[k], v)]
    if not changed:
        return graph
    made = graph.clone()
    for name in changed:
        value = made.graph.initializers.get(named(name)[0])
        if value is not None and value.const_value is not None:
            array = _arranged(new[name].detach().numpy(), value)
            array = rewritten(value, array * gains[str(value.name)] if value.name in gains else array)
            value.const_value = ir.tensor(np.ascontiguousarray(array), name=value.name)
    return made


def _arranged(array: np.ndarray, value: ir.Value) -> np.ndarray:
    permuted = value.metadata_props.get(PERMUTED)
    if permuted:
        array = array.transpose([int(d) for d in permuted.split(",")])
    held = value.const_value.shape.numpy()  # type: ignore[union-attr]
    return array.reshape(held) if array.shape != held else array
