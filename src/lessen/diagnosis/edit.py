"""Small edits of a quantized file: weights, biases and ranges written anew."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from ..targets.graph import Array, array_of, constant
from ..targets.placement import MOVERS
from ..targets.ranges import Range
from .normal import DEQUANTIZE, QUANTIZE
from .units import BIAS

INT32 = 2**31 - 1
FLOOR = 1e-5  # least step of a channel over the largest: a bias in steps of it must still fit 32 bits


def nodes_of(model: ir.Model) -> dict[str, ir.Node]:
    return {str(n.name): n for n in model.graph}


Written = dict[tuple[int, tuple[int, ...], bytes], ir.Value]  # what was written so far, by axis, shape and values


def write_weight(graph: ir.Graph, place: tuple[ir.Node, int], exact: Array, axis: int, written: Written) -> None:
    """The weight at 8 bits, symmetric, rounded to nearest, one step for each output channel.

    Args:
        place: node and index of the input that reads it.
        written: equal weights are written once and shared.
    """
    node, index = place
    key = (axis, exact.shape, hashlib.sha256(np.ascontiguousarray(exact).tobytes()).digest())
    known = written.get(key)
    if known is None:
        known = written[key] = _dequantized(graph, f"{node.name}.{index}.per_channel", exact, axis)
    node.replace_input_with(index, known)


def _dequantized(graph: ir.Graph, name: str, exact: Array, axis: int) -> ir.Value:
    rest = tuple(i for i in range(exact.ndim) if i != axis)
    scale = np.abs(exact).max(rest) / 127
    scale = np.maximum(scale, max(FLOOR * float(scale.max()), 1e-12)).astype(np.float32)
    steps = scale.reshape([-1 if i == axis else 1 for i in range(exact.ndim)])
    codes = np.clip(np.rint(exact / steps), -127, 127).astype(np.int8)
    name = _fresh(graph, name)
    inputs = [constant(graph, name, codes), constant(graph, f"{name}_scale", scale),
              constant(graph, f"{name}_zero_point", np.zeros(scale.shape, np.int8))]  # fmt: skip
    dequantize = ir.node(DEQUANTIZE, inputs, attributes={"axis": axis}, name=f"{name}_dequantize")
    out = dequantize.outputs[0]
    out.name, out.type, out.shape = f"{name}_output", ir.TensorType(ir.DataType.FLOAT), ir.Shape(exact.shape)
    graph.insert_before(graph[0], dequantize)  # it reads constants alone, and several nodes may read it
    return out


def _fresh(graph: ir.Graph, name: str) -> str:
    """A stem that no node's name begins with yet: a mend can be done again."""
    taken = [str(n.name) for n in graph]
    number, stem = 1, name
    while any(t.startswith(stem) for t in taken):
        number, stem = number + 1, f"{name}{number + 1}"
    return stem


def write_range(graph: ir.Graph, quantize: ir.Node, found: Range) -> set[str]:
    """Another range for a pair, and for all pairs that only move values lie between; returns their nodes' names."""
    family = _family(quantize)
    zero = array_of(quantize.inputs[2]) if len(quantize.inputs) > 2 else None
    kind = np.iinfo(np.uint8 if zero is None else zero.dtype)
    step = max((found.high - found.low) / (kind.max - kind.min), 1e-12)
    at = int(np.clip(round(kind.min - found.low / step), kind.min, kind.max))
    scale = constant(graph, f"{quantize.name}.scale", np.array(step, np.float32))
    point = constant(graph, f"{quantize.name}.zero_point", np.array(at, kind.dtype))
    for node in family:
        for pair in (node, *(u.node for u in node.outputs[0].uses() if u.node.op_type == DEQUANTIZE)):
            pair.replace_input_with(1, scale)
            if len(pair.inputs) > 2:
                pair.replace_input_with(2, point)
            else:
                pair.resize_inputs(3)
                pair.replace_input_with(2, point)
            pair.attributes.pop("axis", None)
    return {str(n.name) for n in family}


def _family(quantize: ir.Node) -> list[ir.Node]:
    found, todo = [], [quantize]
    while todo:
        node = todo.pop()
        if node in found:
            continue
        found.append(node)
        todo += [*_before(node), *_after(node)]
    return found


def _after(quantize: ir.Node) -> Iterator[ir.Node]:
    """The next pairs, where only movers lie between."""
    for use in quantize.outputs[0].uses():
        for reader in (u.node for o in use.node.outputs for u in o.uses()) if use.node.op_type == DEQUANTIZE else ():
            if reader.op_type in MOVERS:
                yield from (u.node for o in reader.outputs for u in o.uses() if u.node.op_type == QUANTIZE)


def _before(quantize: ir.Node) -> Iterator[ir.Node]:
    mover = quantize.inputs[0].producer() if quantize.inputs[0] is not None else None
    if mover is None or mover.op_type not in MOVERS:
        return
    for value in mover.inputs:
        dequantize = value.producer() if value is not None else None
        source = dequantize.inputs[0] if dequantize is not None and dequantize.op_type == DEQUANTIZE else None
        maker = source.producer() if source is not None else None
        if maker is not None and maker.op_type == QUANTIZE:
            yield maker


def write_biases(graph: ir.Graph, biases: dict[str, Array], only: Collection[str] | None = None) -> None:
    """int32 biases again, in steps of (input's step x weight's): runtimes take that for granted.

    Args:
        biases: node -> bias in float.
        only: nodes whose bias shall be written; None for all that have an int32 one.
    """
    for node in list(graph):
        at = BIAS.get(node.op_type, 99)
        if str(node.name) not in biases or at >= len(node.inputs) or node.inputs[at] is None:
            continue
        bias, step = biases[str(node.name)], _bias_step(node)
        maker = node.inputs[at].producer()  # type: ignore[union-attr]
        if maker is None or maker.op_type != DEQUANTIZE:
            if only is not None and node.name in only:
                node.replace_input_with(at, constant(graph, f"{node.name}.bias_float", bias.astype(np.float32)))
            continue
        if step is None:
            node.replace_input_with(at, constant(graph, f"{node.name}.bias_float", bias.astype(np.float32)))
            continue
        _write_bias(graph, node, at, bias, step)


def _bias_step(node: ir.Node) -> Array | None:
    """Input's step x the weight's steps; None where one of them is not rounded any more."""
    steps = []
    for value in node.inputs[:2]:
        maker = value.producer() if value is not None else None
        scale = array_of(maker.inputs[1]) if maker is not None and maker.op_type == DEQUANTIZE else None
        if scale is None:
            return None
        steps.append(scale.reshape(-1).astype(np.float64))
    return steps[0] * steps[1] if steps[0].size == 1 else None


def _write_bias(graph: ir.Graph, node: ir.Node, at: int, bias: Array, step: Array) -> None:
    steps = np.ascontiguousarray(np.broadcast_to(step, bias.shape) if step.size == 1 else step).astype(np.float32)
    codes = np.clip(np.rint(bias.astype(np.float64) / steps), -INT32, INT32).astype(np.int32)
    name = _fresh(graph, f"{node.name}.bias_int32")
    inputs = [constant(graph, name, codes), constant(graph, f"{name}_scale", steps),
              constant(graph, f"{name}_zero_point", np.zeros(steps.shape, np.int32))]  # fmt: skip
    dequantize = ir.node(DEQUANTIZE, inputs, attributes={"axis": 0}, name=f"{name}_dequantize")
    out = dequantize.outputs[0]
    out.name, out.type = f"{name}_output", ir.TensorType(ir.DataType.FLOAT)
    graph.insert_before(node, dequantize)
    node.replace_input_with(at, out)


def insert_scaling(
    graph: ir.Graph, quantize: ir.Node, factor: Array, readers: Sequence[tuple[ir.Node, int]]
) -> ir.Node:
    """x * factor -> a pair of its own, read by these alone; returns the new QuantizeLinear."""
    x = quantize.inputs[0]
    assert x is not None
    name = _fresh(graph, f"{quantize.name}.smoothed")
    product = ir.node("Mul", [x, constant(graph, f"{name}.factor", factor.astype(np.float32))], name=name)
    pair = [quantize.op_type, DEQUANTIZE]
    first = ir.node(pair[0], [product.outputs[0], *quantize.inputs[1:]], name=f"{name}.quantize")
    second = ir.node(pair[1], [first.outputs[0], *quantize.inputs[1:]], name=f"{name}.dequantize")
    for node in (product, first, second):
        node.outputs[0].name = f"{node.name}_output"
    for node in (product, second):
        node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph.insert_before(quantize, [product, first, second])
    for node, index in readers:
        node.replace_input_with(index, second.outputs[0])
    return first
