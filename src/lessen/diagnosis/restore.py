"""Putting units of a quantized graph back to float: all of them, some, or as switches of one graph."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from ..targets.graph import Array, constant, copied, drop_unused
from ..targets.placement import MOVERS
from .normal import DEQUANTIZE
from .units import Unit

FLAGS = "lessen.exact"  # name of the switches' input
Exact = Mapping[str, Mapping[int, Array]]  # unit -> input index -> the constant as the original has it


@dataclass(eq=False)
class Wires:
    """Of each unit, its inputs in two forms.

    Args:
        rounded: (unit, input index) -> what the file reads.
        exact: the same without rounding.
        weights: which of them are constants.
    """

    nodes: dict[str, ir.Node]
    rounded: dict[tuple[str, int], ir.Value] = field(default_factory=dict)
    exact: dict[tuple[str, int], ir.Value] = field(default_factory=dict)
    weights: set[tuple[str, int]] = field(default_factory=set)


def wired(model: ir.Model, units: Sequence[Unit], exact: Exact) -> Wires:
    """Adds the unrounded form of every input of the units to the graph; nobody reads it yet."""
    wires = Wires({str(n.name): n for n in model.graph})
    views: dict[ir.Value, ir.Value] = {}
    shared: dict[tuple[tuple[int, ...], bytes], ir.Value] = {}
    for unit in units:
        node = wires.nodes[unit.name]
        for index, array in exact.get(unit.name, {}).items():
            value = node.inputs[index]
            assert value is not None
            plain = np.ascontiguousarray(array, np.float32)
            key = (plain.shape, hashlib.sha256(plain.tobytes()).digest())
            if key not in shared:  # a weight that several nodes read is held once
                shared[key] = constant(model.graph, f"{unit.name}.{index}.exact", plain)
            held = shared[key]
            _note(wires, (unit.name, index), value, held, weight=True)
        for index in unit.reads:
            value = node.inputs[index]
            assert value is not None
            _note(wires, (unit.name, index), value, _view(model.graph, value, views))
    return wires


def _note(wires: Wires, key: tuple[str, int], rounded: ir.Value, exact: ir.Value, weight: bool = False) -> None:
    wires.rounded[key], wires.exact[key] = rounded, exact
    if weight:
        wires.weights.add(key)


def _view(graph: ir.Graph, value: ir.Value, known: dict[ir.Value, ir.Value]) -> ir.Value:
    """The value without the rounding on its way: pairs are skipped, what moves values between them is copied."""
    if value in known:
        return known[value]
    maker = value.producer()
    first = maker.inputs[0] if maker is not None and maker.inputs else None
    made = value
    if maker is not None and maker.op_type == DEQUANTIZE and first is not None:
        quantize = first.producer()
        if quantize is not None and quantize.inputs[0] is not None and _rounds(quantize):
            made = _view(graph, quantize.inputs[0], known)
    elif maker is not None and maker.op_type in MOVERS:
        made = _moved(graph, maker, value, known)
    known[value] = made
    return made


def _rounds(node: ir.Node) -> bool:
    return node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear")


def _moved(graph: ir.Graph, maker: ir.Node, value: ir.Value, known: dict[ir.Value, ir.Value]) -> ir.Value:
    inputs = [None if v is None else _view(graph, v, known) for v in maker.inputs]
    if all(a is b for a, b in zip(inputs, maker.inputs, strict=True)):
        return value
    twin = ir.node(maker.op_type, inputs, attributes=dict(maker.attributes), num_outputs=len(maker.outputs))
    twin.name = f"{maker.name}.exact"
    for old, new in zip(maker.outputs, twin.outputs, strict=True):
        new.name, new.type, new.shape = f"{old.name}.exact", old.type, old.shape
        known[old] = new
    graph.insert_after(maker, twin)
    return known[value]


def restored(model: ir.Model, units: Sequence[Unit], exact: Exact, names: Collection[str] | None = None) -> ir.Model:
    """A copy with these units (all, unless told) computing in float."""
    made = copied(model)
    chosen = [u for u in units if names is None or u.name in names]
    wires = wired(made, chosen, exact)
    for (name, index), value in wires.exact.items():
        wires.nodes[name].replace_input_with(index, value)
    return drop_unused(made)


def switchable(model: ir.Model, units: Sequence[Unit], exact: Exact) -> ir.Model:
    """A copy with one more input, bool [units]: True puts that unit back to float."""
    made = copied(model)
    wires = wired(made, units, exact)
    flags = ir.Value(name=FLAGS, shape=ir.Shape([len(units)]), type=ir.TensorType(ir.DataType.BOOL))
    made.graph.inputs.append(flags)
    for number, unit in enumerate(units):
        place = constant(made.graph, f"{FLAGS}.{number}", np.array(number, np.int64))
        gather = ir.node("Gather", [flags, place], name=f"{FLAGS}.gather.{number}")
        gather.outputs[0].name = f"{gather.name}_output"
        made.graph.insert_before(wires.nodes[unit.name], gather)
        for key in (k for k in wires.exact if k[0] == unit.name):
            _switch(made.graph, wires, key, gather.outputs[0])
    return drop_unused(made)


def _switch(graph: ir.Graph, wires: Wires, key: tuple[str, int], flag: ir.Value) -> None:
    name, index = key
    node = ir.node("Where", [flag, wires.exact[key], wires.rounded[key]], name=f"{name}.{index}.switch")
    out = node.outputs[0]
    out.name, out.type = f"{node.name}_output", ir.TensorType(ir.DataType.FLOAT)
    graph.insert_before(wires.nodes[name], node)
    wires.nodes[name].replace_input_with(index, out)


def shadowed(model: ir.Model, units: Sequence[Unit], exact: Exact) -> tuple[ir.Model, dict[str, tuple[str, str]]]:
    """The float network with each unit a second and third time: all rounded, and only its weights rounded.

    What the shadows compute is read by nobody: every unit still gets exact inputs.

    Returns:
        the graph, and unit -> names of its (rounded, weights rounded) outputs.
    """
    made = copied(model)
    wires = wired(made, units, exact)
    names = {}
    for unit in units:
        node, keys = wires.nodes[unit.name], [k for k in wires.exact if k[0] == unit.name]
        full, part = list(node.inputs), list(node.inputs)
        for key in keys:
            node.replace_input_with(key[1], wires.exact[key])
            if key not in wires.weights:
                part[key[1]] = wires.exact[key]
        rounded = _twin(made.graph, node, full, "all_rounded")
        weights = _twin(made.graph, node, part, "weights_rounded") if wires.weights & set(keys) else unit.output
        names[unit.name] = (rounded, weights)
    return made, names


def _twin(graph: ir.Graph, node: ir.Node, inputs: Sequence[ir.Value | None], tail: str) -> str:
    twin = ir.node(node.op_type, inputs, attributes=dict(node.attributes), domain=node.domain,
                   num_outputs=len(node.outputs), name=f"{node.name}.{tail}")  # fmt: skip
    for old, new in zip(node.outputs, twin.outputs, strict=True):
        new.name, new.type = (f"{old.name}.{tail}" if old.name else ""), old.type
    graph.insert_after(node, twin)
    return str(twin.outputs[0].name)
