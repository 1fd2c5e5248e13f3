"""Transpositions carried in front of a concatenation, where whole rows are copied then instead of single values."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .graph import array_of, constant

SLICE_AXES = 3  # the input that names them


def carried(model: ir.Model) -> ir.Model:
    """Transpose(Slice(Concat(x...))) becomes Slice(Concat(Transpose(x)...)), in place; the same values come out.

    Only where the parts lie side by side in the innermost axis and the transposition moves that outwards: what comes
    from TensorFlow, channels last, in front of a convolution. OpenVINO copies there value by value: a fifth of the time
    of basic-pitch's 8-bit file. Done when all pairs are written: where one stands in between, nothing is.
    """
    for node in list(model.graph):
        if node.op_type == "Transpose" and (chain := _chain(node)) is not None:
            _carry(model.graph, node, chain)
    return model


def _chain(transpose: ir.Node) -> list[ir.Node] | None:
    """The slices and, last, the concatenation that make what is transposed; each is read by the next one only."""
    perm = transpose.attributes.get_ints("perm", ())
    found: list[ir.Node] = []
    value = transpose.inputs[0]
    while value is not None and len(value.uses()) == 1 and not value.is_graph_output():
        node = value.producer()
        if node is None or node.graph is not transpose.graph:
            return None
        found.append(node)
        if node.op_type == "Concat":
            last = len(perm) - 1
            return found if perm and _axis(node, last) == last != perm[last] else None
        if node.op_type != "Slice" or _axes(node) is None:
            return None
        value = node.inputs[0]
    return None


def _axis(concat: ir.Node, last: int) -> int:
    axis = concat.attributes.get_int("axis", 0)
    return axis % (last + 1)


def _axes(node: ir.Node) -> np.ndarray | None:
    """The axes that are sliced."""
    named = node.inputs[SLICE_AXES] if len(node.inputs) > SLICE_AXES else None
    starts = array_of(node.inputs[1]) if len(node.inputs) > 1 else None
    if named is not None:
        return array_of(named)
    return None if starts is None else np.arange(starts.size)


def _carry(graph: ir.Graph, transpose: ir.Node, chain: list[ir.Node]) -> None:
    perm = list(transpose.attributes.get_ints("perm", ()))
    *slices, concat = chain
    turned = [_turned(graph, concat, i, perm) for i in range(len(concat.inputs))]
    new = ir.node("Concat", turned, attributes={"axis": perm.index(len(perm) - 1)}, name=f"{concat.name}_turned")
    made = [new]
    for node in reversed(slices):
        axes = _axes(node)
        assert axes is not None
        moved = np.array([perm.index(int(a) % len(perm)) for a in axes.reshape(-1)], np.int64)
        inputs = [made[-1].outputs[0], *node.inputs[1:SLICE_AXES],
                  constant(graph, f"{node.name}_turned_axes", moved), *node.inputs[SLICE_AXES + 1 :]]  # fmt: skip
        made.append(ir.node("Slice", inputs, name=f"{node.name}_turned"))
    old, result = transpose.outputs[0], made[-1].outputs[0]
    graph.insert_before(transpose, made)
    for part in made:
        part.outputs[0].name, part.outputs[0].type = f"{part.name}_output", old.type
    result.shape = old.shape
    old.replace_all_uses_with(result, replace_graph_outputs=True)
    if result.is_graph_output():
        old.name, result.name = f"{old.name}_replaced", old.name
    graph.remove([transpose, *chain], safe=True)


def _turned(graph: ir.Graph, concat: ir.Node, index: int, perm: list[int]) -> ir.Value:
    node = ir.node("Transpose", [concat.inputs[index]], attributes={"perm": perm}, name=f"{concat.name}_part{index}")
    value = node.outputs[0]
    value.name, value.type = f"{node.name}_turned", concat.outputs[0].type
    graph.insert_before(concat, node)
    return value
