"""What can be done about a reason: each mend is a type that edits the file and says what it costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx_ir as ir
import torch

from ..models.equalize import balance
from ..targets.graph import Array
from ..targets.ranges import Rule
from .edit import Written, insert_scaling, nodes_of, write_biases, write_range, write_weight
from .measure import measured
from .normal import normal, with_outputs_named
from .restore import restored
from .state import State
from .units import Quantizer, Unit

STRENGTH = 0.85  # of smoothing, as in `lessen.smoothing`


class Mend(Protocol):
    """A way to mend some units."""

    @property
    def units(self) -> tuple[str, ...]:
        """Names of the units that it is for."""
        ...

    def apply(self, state: State) -> State:
        """The state with it; the given one is left as it is."""
        ...


@dataclass(frozen=True)
class PerChannel:
    """Weights at 8 bits with a step for each output channel."""

    units: tuple[str, ...]

    def apply(self, state: State) -> State:
        file, written = state.copy(), Written()
        nodes = nodes_of(file)
        for (unit, index), exact in state.weights.items():
            if unit in self.units and unit in nodes and nodes[unit].op_type in KINDS:
                write_weight(file.graph, (nodes[unit], index), exact, state.axes[unit, index], written)
        write_biases(file.graph, dict(state.biases))
        return state.edited(file)

    def __str__(self) -> str:
        return "8-bit weights with a step for each channel"


@dataclass(frozen=True)
class EightBits(PerChannel):
    """The same for weights of fewer bits, or held in another form: it costs bytes."""

    def __str__(self) -> str:
        return "8 bits for its weights"


KINDS = ("Conv", "ConvTranspose", "Gemm", "MatMul")  # whose runtimes have integer kernels with a step per channel


@dataclass(frozen=True)
class OriginalBias:
    """The original's bias."""

    units: tuple[str, ...]

    def apply(self, state: State) -> State:
        file = state.copy()
        write_biases(file.graph, {u: state.biases[u] for u in self.units if u in state.biases}, only=self.units)
        return state.edited(file)

    def __str__(self) -> str:
        return "the original's bias"


@dataclass(frozen=True)
class MeanCorrection:
    """Biases moved by the mean error (Nagel et al. 2019, sec. 4.2): what re-estimating batch norms is, once folded."""

    units: tuple[str, ...]

    def apply(self, state: State) -> State:
        file = state.copy()
        biases = {u.name: u.bias for u in state.units if u.name in self.units and u.bias is not None}
        chosen = [u for u in state.units if u.name in biases]
        noise = measured(state.graph, chosen, state.exact, state.batches)
        moved = {name: bias - noise[name].moved / max(noise[name].count, 1) for name, bias in biases.items()}
        write_biases(file.graph, moved, only=self.units)
        return state.edited(file)

    def __str__(self) -> str:
        return "means corrected in the bias"


@dataclass(frozen=True)
class NewRange:
    """Ranges measured anew on this data."""

    units: tuple[str, ...]
    rule: Rule = "mse"

    def apply(self, state: State) -> State:
        file = state.copy()
        nodes = nodes_of(file)
        read = [q for u in state.units if u.name in self.units for q in u.reads.values() if q.lows.size == 1]
        pairs = {q.node: q.tensor for q in read if q.node in nodes and not q.dynamic}
        seen = state.histograms(sorted(set(pairs.values())))
        done: set[str] = set()
        for node, tensor in pairs.items():
            if node not in done:
                done |= write_range(file.graph, nodes[node], seen[tensor].range(self.rule))
        write_biases(file.graph, dict(state.biases))
        return state.edited(file)

    def __str__(self) -> str:
        return "ranges measured on this data" + (" (all of it inside)" if self.rule == "minmax" else "")


@dataclass(frozen=True)
class Smooth:
    """Outliers moved from the inputs of linear layers into their weights (Xiao et al. 2023).

    Args:
        peaks: unit -> largest magnitude of each channel of its input.
    """

    units: tuple[str, ...]
    peaks: tuple[tuple[float, ...], ...]

    def apply(self, state: State) -> State:
        file, written = state.copy(), Written()
        nodes, weights = nodes_of(file), dict(state.weights)
        peaks = dict(zip(self.units, self.peaks, strict=True))
        groups: dict[str, list[Unit]] = {}
        for unit in state.units:
            if unit.name in self.units and smoothable(unit) and (unit.name, 1) in weights:
                groups.setdefault(unit.reads[0].node, []).append(unit)
        new: list[str] = []
        for pair, members in groups.items():
            peak = np.array(peaks[members[0].name])
            members = [m for m in members if _direct(nodes, m, pair) and len(peak) == _columns(state, m)]
            if not members:
                continue
            scale = _smoothing(peak, [weights[m.name, 1] for m in members],
                               [state.axes[m.name, 1] for m in members])  # fmt: skip
            readers = [(nodes[m.name], 0) for m in members]
            new.append(str(insert_scaling(file.graph, nodes[pair], 1 / scale, readers).name))
            for m in members:
                axis = state.axes[m.name, 1]
                weights[m.name, 1] = weights[m.name, 1] * _along(scale, 2, 1 - axis)
                write_weight(file.graph, (nodes[m.name], 1), weights[m.name, 1], axis, written)
        return _ranged(state.edited(file, weights=weights), new)

    def __str__(self) -> str:
        return "outliers moved into the weights (smoothing, one multiplication more)"


def smoothable(unit: Unit) -> bool:
    """Whether its input's channels are the rows of one constant matrix."""
    return unit.kind in ("MatMul", "Gemm") and set(unit.reads) == {0} and [w.index for w in unit.weights] == [1] \
        and unit.weights[0].array.ndim == 2 and not unit.reads[0].dynamic  # fmt: skip


def _direct(nodes: Mapping[str, ir.Node], unit: Unit, pair: str) -> bool:
    """Whether nothing lies between the pair and its reader."""
    value = nodes[unit.name].inputs[0]
    dequantize = value.producer() if value is not None else None
    codes = dequantize.inputs[0] if dequantize is not None and dequantize.inputs else None
    maker = codes.producer() if codes is not None else None
    return maker is not None and maker.name == pair


def _columns(state: State, unit: Unit) -> int:
    return state.weights[unit.name, 1].shape[1 - state.axes[unit.name, 1]]


def _smoothing(peak: Array, weights: Sequence[Array], axes: Sequence[int]) -> Array:
    """As `targets.smooth`: s = max|x|^a / max|w|^(1 - a), of geometric mean 1."""
    reach = np.max([np.abs(w).max(axis) for w, axis in zip(weights, axes, strict=True)], axis=0)
    peak = np.maximum(peak, 1e-3 * max(float(peak.max()), 1e-5))  # what is never used has no say in the level
    scale = peak**STRENGTH / np.maximum(reach, 1e-5) ** (1 - STRENGTH)
    return np.clip(scale / np.exp(np.log(scale).mean()), 1e-3, 1e3)


def _ranged(state: State, pairs: Sequence[str]) -> State:
    """Pairs that are new get the ranges of what they now read."""
    file = state.copy()
    nodes = nodes_of(file)
    tensors = {n: str(nodes[n].inputs[0].name) for n in pairs}  # type: ignore[union-attr]
    seen = state.histograms(sorted(set(tensors.values()))) if tensors else {}
    for node, tensor in tensors.items():
        write_range(file.graph, nodes[node], seen[tensor].range("mse"))
    write_biases(file.graph, dict(state.biases))
    return state.edited(file)


@dataclass(frozen=True)
class Equalize:
    """Channels between two layers rescaled until both weights have the same ranges (Nagel et al. 2019)."""

    units: tuple[str, ...]

    def apply(self, state: State) -> State:
        file, written = state.copy(), Written()
        nodes, weights, biases = nodes_of(file), dict(state.weights), dict(state.biases)
        pairs = []
        for first, second, quantizer in seams(state):
            if second.name in self.units and quantizer.node in nodes:
                _balanced(nodes, weights, biases, state.axes, first, second)
                pairs.append(quantizer.node)
                for unit in (first, second):
                    at = unit.weights[0].index
                    write_weight(
                        file.graph, (nodes[unit.name], at), weights[unit.name, at], state.axes[unit.name, at], written
                    )
        write_biases(file.graph, biases, only=tuple(biases))
        return _ranged(state.edited(file, weights=weights, biases=biases), pairs)

    def __str__(self) -> str:
        return "channels equalized with the layer before"


def seams(state: State) -> Iterator[tuple[Unit, Unit, Quantizer]]:
    """(layer, the only layer that reads it, the pair between): nothing between but a ReLU."""
    nodes = nodes_of(state.graph)
    made = {u.output: u for u in state.units}
    readers = Counter(q.node for u in state.units for q in u.reads.values())
    for second in state.units:
        if second.kind not in ("Conv", "Gemm", "MatMul") or set(second.reads) != {0} or len(second.weights) != 1:
            continue
        quantizer = second.reads[0]
        source = _behind_relu(nodes[quantizer.node].inputs[0])
        first = None if source is None else made.get(source)
        if first is None or readers[quantizer.node] != 1 or not _direct(nodes, second, quantizer.node):
            continue
        if first.kind == second.kind and len(first.weights) == 1 and _meets(nodes, state, first, second):
            yield first, second, quantizer


def _behind_relu(value: ir.Value | None) -> str | None:
    """Name of the value that a ReLU made this of, or of itself; None if anybody else reads it."""
    while value is not None and len(list(value.uses())) == 1:
        maker = value.producer()
        if maker is None or maker.op_type not in ("Relu", "LeakyRelu"):
            return str(value.name)
        value = maker.inputs[0]
    return None


def _meets(nodes: Mapping[str, ir.Node], state: State, first: Unit, second: Unit) -> bool:
    a, b = ((u.name, u.weights[0].index) for u in (first, second))
    if a not in state.weights or b not in state.weights or (first.kind == "MatMul" and first.name in state.biases):
        return False
    rows = state.weights[a].shape[state.axes[a]]
    groups = nodes[second.name].attributes.get_int("group", 1)
    shape = state.weights[b].shape
    columns = shape[1 - state.axes[b]]
    return (groups == 1 and columns == rows) or (groups == rows == shape[0] and columns == 1)


def _balanced(nodes: Mapping[str, ir.Node], weights: dict[tuple[str, int], Array], biases: dict[str, Array],
              axes: Mapping[tuple[str, int], int], first: Unit, second: Unit) -> None:  # fmt: skip
    a, b = ((u.name, u.weights[0].index) for u in (first, second))
    wide = nodes[second.name].attributes.get_int("group", 1) > 1
    along = axes[b] if wide else 1 - axes[b]
    rows, columns = (np.abs(np.moveaxis(weights[k], x, 0)).reshape(weights[k].shape[x], -1).max(1)
                     for k, x in ((a, axes[a]), (b, along)))  # fmt: skip
    s = balance(torch.from_numpy(rows), torch.from_numpy(columns)).numpy()
    weights[a] = weights[a] / _along(s, weights[a].ndim, axes[a])
    weights[b] = weights[b] * _along(s, weights[b].ndim, along)
    if first.name in biases:
        biases[first.name] = biases[first.name] / s


def _along(s: Array, rank: int, axis: int) -> Array:
    return s.reshape([-1 if i == axis else 1 for i in range(rank)])


@dataclass(frozen=True)
class InFloat:
    """These units compute in float again."""

    units: tuple[str, ...]

    def apply(self, state: State) -> State:
        chosen = [u for u in state.units if u.name in self.units]
        file = normal(state.file, only=[u.name for u in chosen])
        return state.edited(restored(with_outputs_named(file), chosen, state.exact))

    def __str__(self) -> str:
        return "float for this layer"
