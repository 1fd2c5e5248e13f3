"""LSTM layers in integers: ONNX Runtime's `DynamicQuantizeLSTM`, which rounds inputs and states in every step."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from ..codings import Grid
from .coded import Coded
from .decode import DOMAIN
from .graph import Array, constant
from .place import Place
from .weights import fits_int8, int8_matrix

OP = "DynamicQuantizeLSTM"
Directions = Mapping[int, Place]


def write_integer_lstm(graph: ir.Graph, of_input: Directions, of_state: Directions, coded: Coded) -> bool:
    """Replaces the LSTM, if that is what was asked for and both its weights, in all directions, are 8-bit grids."""
    first = of_input[min(of_input)]
    node, names = first.node, [p.layer.name for p in (*of_input.values(), *of_state.values())]
    able = node.op_type == "LSTM" and node.graph is graph and not node.attributes.get_int("layout", 0)
    whole = len(of_input) == len(of_state) == _directions(node)
    asked = all(coded.execution.get(n) == "dynamic" for n in names)
    if not (able and whole and asked and all(_fits(coded, n) for n in names)):
        return False
    given = [node.inputs[i] if i < len(node.inputs) else None for i in range(8)]  # up to the peepholes
    scales = []
    for index, places in ((1, of_input), (2, of_state)):
        name = f"{node.name or first.layer.name}_{'WR'[index - 1]}"
        codes, scale = _stacked(places, coded)
        given[index] = constant(graph, f"{name}_codes", codes)
        scales.append(constant(graph, f"{name}_scale", scale))
        scales.append(constant(graph, f"{name}_zero_point", np.zeros(scale.shape, np.int8)))
    made = ir.node(
        OP, [*given, *scales], domain=DOMAIN, name=f"{node.name}_dynamic", num_outputs=len(node.outputs),
        attributes={k: v for k, v in node.attributes.items() if k != "layout"},
    )  # fmt: skip
    graph.insert_before(node, made)
    for old, new in zip(node.outputs, made.outputs, strict=True):
        new.type, new.shape, new.name = old.type, old.shape, f"{old.name}_dynamic" if old.name else old.name
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        if new.is_graph_output():
            old.name, new.name = f"{old.name}_replaced", old.name
    graph.remove([node], safe=True)
    graph.opset_imports.setdefault(DOMAIN, 1)
    return True


def _directions(node: ir.Node) -> int:
    return 2 if node.attributes.get_string("direction", "forward") == "bidirectional" else 1


def _fits(coded: Coded, name: str) -> bool:
    coding = coded.codings.get(name)
    return isinstance(coding, Grid) and fits_int8(coding)


def _stacked(places: Directions, coded: Coded) -> tuple[Array, Array]:
    """Codes int8 [directions, columns, 4 x hidden] and scales float32 [directions, 4 x hidden]."""
    each = [int8_matrix(places[d].in_order(coded.codings[places[d].layer.name])) for d in sorted(places)]
    codes = np.stack([np.ascontiguousarray(m.codes.numpy().T) for m in each])
    return codes, np.stack([m.scale.numpy().astype(np.float32) for m in each])
