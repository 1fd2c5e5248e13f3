"""Walks over an onnx-ir model in one fixed order, so that a clone's values and nodes can be found again."""

from __future__ import annotations

import re
from collections.abc import Iterator

import onnx_ir as ir

_SIZED = ("Reshape", "Expand", "Split", "Slice", "Concat", "Tile")  # operators that take sizes
_KEEPS_RANK = ("Relu", "BatchNormalization", "Clip", "Sigmoid", "Identity", "MaxPool", "AveragePool", "Concat", "Add",
               "Mul", "Dropout", "LeakyRelu", "Tanh", "HardSwish", "GlobalAveragePool", "Resize", "Pad",
               "Cast")  # fmt: skip
_LIFTED = ("value", "value_float", "value_floats", "value_int", "value_ints")


def graphs(graph: ir.Graph) -> Iterator[ir.Graph]:
    """A graph and all graphs inside it."""
    yield graph
    for node in graph:
        for inner in subgraphs(node).values():
            yield from graphs(inner)


def subgraphs(node: ir.Node) -> dict[str, ir.Graph]:
    """The graphs among a node's attributes, by attribute name."""
    return {n: a.as_graph() for n, a in node.attributes.items() if a.type == ir.AttributeType.GRAPH}


def nodes(model: ir.Model) -> list[ir.Node]:
    """Every node, those of subgraphs too."""
    return [node for graph in graphs(model.graph) for node in graph]


def values(model: ir.Model) -> dict[str, ir.Value]:
    """Every named value by a key: its name, made unique where two branches use the same one."""
    found: dict[str, ir.Value] = {}
    seen: set[int] = set()
    for graph in graphs(model.graph):
        outputs = (v for node in graph for v in node.outputs)
        for value in (*graph.inputs, *graph.initializers.values(), *outputs):
            if value.name and id(value) not in seen:
                seen.add(id(value))
                found[unique(value.name, found, "#")] = value
    return found


def unique(name: str, taken: object, sign: str = "_") -> str:
    """`name`, or with the first free number behind it."""
    if name not in taken:  # type: ignore[operator]
        return name
    number = 1
    while f"{name}{sign}{number}" in taken:  # type: ignore[operator]
        number += 1
    return f"{name}{sign}{number}"


def identifier(name: str) -> str:
    """A name fit for a module attribute."""
    plain = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "unnamed"
    return f"_{plain}" if plain[0].isdigit() else plain


def lift_constants(model: ir.Model) -> None:
    """Make initializers of `Constant` nodes, so that all weights are found in one place (PaddlePaddle, spox)."""
    for graph in graphs(model.graph):
        for node in list(graph):
            kind = next(iter(node.attributes), "")
            if node.op_type != "Constant" or node.domain not in ("", "ai.onnx") or kind not in _LIFTED:
                continue
            old = node.outputs[0]
            if old.is_graph_output() or not old.name or old.name in graph.initializers:
                continue
            tensor = _constant(node.attributes[kind])
            shape, dtype = ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype)
            new = ir.Value(name=old.name, shape=shape, type=dtype, const_value=tensor)
            old.replace_all_uses_with(new)
            graph.remove(node, safe=True)
            graph.register_initializer(new)


def hoist(model: ir.Model) -> None:
    """Bring the matrices of `If` branches into the main graph, where everybody looks for weights; values stay."""
    taken = set(values(model))
    for node in model.graph:
        for part in _branches(node):
            for value in list(part.initializers.values()):
                if value.const_value is None or len(value.const_value.shape) < 2 or value.is_graph_output():
                    continue
                name = unique(value.name or "constant", taken)
                taken.add(name)
                shape, dtype = value.const_value.shape, value.const_value.dtype
                new = ir.Value(name=name, shape=ir.Shape(shape.numpy()), type=ir.TensorType(dtype))
                new.const_value = value.const_value
                value.replace_all_uses_with(new)
                del part.initializers[str(value.name)]
                model.graph.register_initializer(new)


def _branches(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs of an `If`, and of the `If`s inside; other subgraphs run in ONNX Runtime with what they hold."""
    for part in subgraphs(node).values() if node.op_type == "If" else ():
        yield part
        for inner in part:
            yield from _branches(inner)


def separate(model: ir.Model) -> None:
    """Give each reader of a shared vector or size its own copy.

    Exporters merge equal constants (all-zero biases, the [1, -1] of two Reshapes) that were never tied; changing one
    must not change the other. Matrices that are shared stay shared: those are tied on purpose.
    """
    for part in graphs(model.graph):
        taken = {v.name for g in graphs(model.graph) for v in (*g.initializers.values(), *g.inputs)}
        taken |= {v.name for g in graphs(model.graph) for node in g for v in node.outputs}
        for value in list(part.initializers.values()):
            uses = list(value.uses())
            if value.const_value is None or len(uses) < 2 or value.is_graph_output() or value.is_graph_input():
                continue
            for node, slot in uses[1:]:
                if _own(value, node):
                    name = unique(value.name or "constant", taken)
                    taken.add(name)
                    copy = ir.Value(name=name, shape=value.shape, type=value.type, const_value=value.const_value)
                    part.register_initializer(copy)
                    node.replace_input_with(slot, copy)


def _own(value: ir.Value, node: ir.Node) -> bool:
    tensor = value.const_value
    assert tensor is not None
    if len(tensor.shape) != 1:
        return False
    if tensor.dtype in (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16):
        return tensor.size > 1
    return tensor.size <= 64 and node.op_type in _SIZED


def _constant(attribute: ir.Attr) -> ir.TensorProtocol:
    if attribute.type == ir.AttributeType.TENSOR:
        return attribute.as_tensor()
    whole = attribute.type in (ir.AttributeType.INT, ir.AttributeType.INTS)
    return ir.tensor(attribute.value, dtype=ir.DataType.INT64 if whole else ir.DataType.FLOAT)


def outer_values(graph: ir.Graph) -> list[ir.Value]:
    """Values that a subgraph uses but doesn't define, in order of use."""
    inside: set[int] = set()
    used: dict[int, ir.Value] = {}
    for inner in graphs(graph):
        inside |= {id(v) for v in (*inner.inputs, *inner.initializers.values())}
        inside |= {id(v) for node in inner for v in node.outputs}
        for value in (*(v for node in inner for v in node.inputs if v is not None), *inner.outputs):
            used.setdefault(id(value), value)
    return [v for i, v in used.items() if i not in inside]


def rank(value: ir.Value | None, depth: int = 64) -> int | None:
    """The number of axes of a value if the file says, or if what made it tells."""
    if value is None or depth == 0:
        return None
    if value.shape is not None:
        return len(value.shape)
    node = value.producer()
    if node is None:
        return None
    if node.op_type in ("Conv", "ConvTranspose"):
        return rank(node.inputs[1], depth - 1)
    if node.op_type == "Gemm":
        return 2
    if node.op_type not in _KEEPS_RANK:
        return None
    operands = node.inputs[: 2 if node.op_type in ("Add", "Mul") else 1]
    known = [r for r in (rank(v, depth - 1) for v in operands) if r]
    return max(known, default=None)
