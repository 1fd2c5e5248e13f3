"""The units of a quantized graph: operators that compute with rounded weights or read rounded activations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from ..targets.graph import Array, array_of, copied, drop_unused, session_on
from ..targets.placement import MOVERS
from .normal import DEQUANTIZE, OUTPUT, QUANTIZE

QUANTIZERS = (QUANTIZE, DEQUANTIZE, "DynamicQuantizeLinear")
# operator -> inputs that can be its weights
WEIGHTS = {"Conv": (1,), "ConvTranspose": (1,), "Gemm": (1,), "MatMul": (1, 0), "Gather": (0,),
           "LSTM": (1, 2), "GRU": (1, 2), "RNN": (1, 2)}  # fmt: skip
BIAS = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2}


@dataclass(frozen=True, eq=False)
class Quantizer:
    """A quantize/dequantize pair on an activation.

    Args:
        tensor: name of what it rounds.
        node: name of its QuantizeLinear.
        lows, highs: the range that its codes cover, one for each of its scales; infinite where it follows each
            input (dynamic).
        axis: which axis of the tensor has scales of its own, where there are several.
        bits: of its codes.
    """

    tensor: str
    node: str
    lows: Array
    highs: Array
    axis: int
    bits: int

    @property
    def low(self) -> float:
        return float(self.lows.min())

    @property
    def high(self) -> float:
        return float(self.highs.max())

    @property
    def dynamic(self) -> bool:
        return not np.isfinite(self.high)

    @property
    def step(self) -> float:
        """Distance of two levels, the largest where there are several; 0 where it is dynamic."""
        return 0.0 if self.dynamic else float((self.highs - self.lows).max()) / (2**self.bits - 1)

    def clipped(self, x: Array) -> Array:
        """`x`, with what lies outside of the range moved to its ends."""
        shape = [-1 if i == self.axis % x.ndim else 1 for i in range(x.ndim)] if self.lows.size > 1 else []
        return np.clip(x, self.lows.reshape(shape), self.highs.reshape(shape))


@dataclass(frozen=True, eq=False)
class Weight:
    """A constant input of a unit, as the file computes with it.

    Args:
        index: which input of the node.
        array: its values, in the node's layout.
        source: name of the initializer that it comes from, for people and for matching.
        scales: how many steps it has; 0 where it is not a plain grid.
        bits: of its codes; 32 where it is held in float, 0 where a graph of its own decodes them.
        levels: how many of the levels lie within the values' own range, the median of its channels.
    """

    index: int
    array: Array
    source: str
    scales: int = 0
    bits: int = 32
    levels: float = 0.0


@dataclass(frozen=True, eq=False)
class Unit:
    """One operator of the compressed graph.

    Args:
        name: of the node.
        kind: its operator.
        output: name of what it computes.
        weights: its constant matrices, rounded or not.
        reads: input index -> the pair that it is read through; the pair may lie before a Reshape or the like.
        bias: its bias as the file has it, or None.
    """

    name: str
    kind: str
    output: str
    weights: tuple[Weight, ...] = ()
    reads: Mapping[int, Quantizer] = field(default_factory=dict)
    bias: Array | None = None


def units_of(model: ir.Model) -> tuple[Unit, ...]:
    """The units of a graph in the form of `normal.normal`, in order of execution."""
    fixed = fixed_values(model)
    wanted = [(node, i) for node in model.graph for i in _constant_inputs(node, fixed)]
    known = evaluated(model, [str(node.inputs[i].name) for node, i in wanted])  # type: ignore[union-attr]
    found = (_unit(node, known, fixed) for node in model.graph if node.op_type not in QUANTIZERS)
    return tuple(u for u in found if u is not None)


def _unit(node: ir.Node, known: Mapping[str, Array], fixed: Set[ir.Value]) -> Unit | None:
    if node.op_type in MOVERS and node.op_type != "Gather" and not str(node.name).startswith(OUTPUT):
        return None
    places = [i for i in _constant_inputs(node, fixed) if i in WEIGHTS.get(node.op_type, ())]
    weights = tuple(_weight(node, i, known) for i in places)
    weights = tuple(w for w in weights if w.array.ndim > 1 and np.issubdtype(w.array.dtype, np.floating))
    reads = {i: q for i, v in enumerate(node.inputs) if v is not None and v not in fixed for q in _pairs(v)}
    if (not weights and not reads) or (node.op_type == "Gather" and not weights):
        return None
    at = BIAS.get(node.op_type, 99)
    bias = node.inputs[at] if at < len(node.inputs) else None
    return Unit(str(node.name), node.op_type, str(node.outputs[0].name), weights, reads,
                known.get(str(bias.name)) if bias is not None else None)  # fmt: skip


def _constant_inputs(node: ir.Node, fixed: Set[ir.Value]) -> Iterator[int]:
    for i in (*WEIGHTS.get(node.op_type, ()), *((BIAS[node.op_type],) if node.op_type in BIAS else ())):
        if i < len(node.inputs) and node.inputs[i] in fixed:
            yield i


def fixed_values(model: ir.Model) -> Set[ir.Value]:
    """The values that depend on no input of the graph."""
    found: set[ir.Value] = {v for v in model.graph.initializers.values() if v.const_value is not None}
    for node in model.graph:
        known = all(v is None or v in found for v in node.inputs)
        if known and not any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
                             for a in node.attributes.values()):  # fmt: skip
            found.update(node.outputs)
    return found


def evaluated(model: ir.Model, names: Sequence[str]) -> dict[str, Array]:
    """The values of constants and of what is computed from constants alone."""
    values = {str(v.name): v for node in model.graph for v in node.inputs if v is not None}
    plain = {n: a for n in names if (a := array_of(values[n])) is not None}
    left = [n for n in dict.fromkeys(names) if n not in plain]
    if not left:
        return plain
    part = copied(model)
    made = {str(o.name): o for node in part.graph for o in node.outputs}
    part.graph.outputs.clear()
    for name in left:
        made[name].type = made[name].type or ir.TensorType(ir.DataType.FLOAT)
        part.graph.outputs.append(made[name])
    drop_unused(part)
    for value in [v for v in part.graph.inputs if not list(v.uses())]:
        part.graph.inputs.remove(value)
    got = session_on(part, intra_op_num_threads=1).run(left, {})
    return plain | dict(zip(left, got, strict=True))


def _weight(node: ir.Node, index: int, known: Mapping[str, Array]) -> Weight:
    value = node.inputs[index]
    assert value is not None
    array = known[str(value.name)]
    maker = value.producer()
    scales, bits, levels = 0, 8 * array.dtype.itemsize, 0.0
    if maker is not None and maker.op_type == DEQUANTIZE:
        scale = array_of(maker.inputs[1])
        scales, bits = 0 if scale is None else int(scale.size), _bits(maker.inputs[0])
        levels = _levels(array, scale, maker.attributes.get_int("axis", 1))
        bits = bits or int(np.ceil(np.log2(max(levels, 2))))
    elif maker is not None:
        bits, levels = 0, _distinct(array)  # decoded by a graph of its own
    return Weight(index, array, _source(value), scales, bits, levels)


def _bits(codes: ir.Value | None) -> int:
    """Bits of integer codes; 0 where the graph does not tell."""
    maker = codes.producer() if codes is not None else None
    if maker is not None and maker.op_type == QUANTIZE:
        zero = array_of(maker.inputs[2]) if len(maker.inputs) > 2 else None
        return 8 if zero is None else 8 * zero.dtype.itemsize
    held = array_of(codes)
    if held is None:
        return 0
    return {"int4": 4, "uint4": 4, "int2": 2, "uint2": 2}.get(str(held.dtype), 8 * held.dtype.itemsize)


def _levels(array: Array, scale: Array | None, axis: int) -> float:
    """Levels within -max|w| to max|w| of a channel; 0 where they can't be counted."""
    if scale is None or scale.ndim > 1 or not array.size:
        return 0.0
    rows = array.reshape(1, -1) if scale.size == 1 else np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
    if len(rows) != scale.size:
        return 0.0
    return float(np.median(2 * np.abs(rows).max(1) / np.maximum(scale.reshape(-1), 1e-30) + 1))


def _distinct(array: Array) -> float:
    """How many values a stretch of 32 neighbours takes: the levels of a group or of a table, where they are few."""
    rows = array.reshape(-1, array.shape[-1])[:64, :32]
    return float(max(len(np.unique(row)) for row in rows))


def _source(value: ir.Value) -> str:
    """The largest initializer that a constant is computed from."""
    todo, best, most = [value], str(value.name), -1
    while todo:
        v = todo.pop()
        if v.const_value is not None and v.const_value.size > most:
            best, most = str(v.name), v.const_value.size
        maker = v.producer()
        todo += [u for u in maker.inputs if u is not None] if maker is not None else []
    return best


def _pairs(value: ir.Value) -> Iterator[Quantizer]:
    """The pair that a value is read through, nearest first; at most one."""
    maker = value.producer()
    while maker is not None and maker.op_type in MOVERS and maker.inputs and maker.inputs[0] is not None:
        maker = maker.inputs[0].producer()
    if maker is None or maker.op_type != DEQUANTIZE or maker.inputs[0] is None:
        return
    first = maker.inputs[0].producer()
    if first is not None and first.op_type in (QUANTIZE, "DynamicQuantizeLinear") and first.inputs[0] is not None:
        yield _quantizer(first)


def _quantizer(node: ir.Node) -> Quantizer:
    tensor, name = str(node.inputs[0].name), str(node.name)  # type: ignore[union-attr]
    scale = array_of(node.inputs[1]) if len(node.inputs) > 1 else None
    if scale is None:
        return Quantizer(tensor, name, np.array([-np.inf]), np.array([np.inf]), 0, 8)
    zero = array_of(node.inputs[2]) if len(node.inputs) > 2 else None
    zero = np.zeros(1, np.uint8) if zero is None else zero
    kind = np.iinfo(zero.dtype)
    at, step = zero.astype(np.float64).reshape(-1), scale.astype(np.float64).reshape(-1)
    return Quantizer(tensor, name, (kind.min - at) * step, (kind.max - at) * step,
                     node.attributes.get_int("axis", 1), kind.bits)  # fmt: skip
