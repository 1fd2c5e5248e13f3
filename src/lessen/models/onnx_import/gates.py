"""Weights of LSTM, GRU and RNN that the graph puts together itself, gate by gate: put together once, when it is read.

PyTorch's exporter writes the weights as PyTorch has them, and nodes that cut them up and join them in ONNX's order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from . import graph
from .recurrent import GATES

_MOVES = {"Slice", "Concat", "Unsqueeze", "Squeeze", "Transpose", "Reshape", "Identity", "Split", "Gather"}
_MOST = 200  # nodes that make one weight
_SIZES = 16  # values; what is no larger tells where to cut


def gather_gates(model: ir.Model) -> None:
    """Replaces the weights that recurrent nodes compute from constants by constants."""
    made: dict[object, ir.Value] = {}  # the two branches of an If may hold twins of one layer: they stay tied
    for node in graph.nodes(model):
        if node.op_type not in GATES or node.domain not in ("", "ai.onnx"):
            continue
        for i, letter in enumerate("WRB", 1):
            value = node.inputs[i] if i < len(node.inputs) else None
            chain = None if value is None or value.is_initializer() else _chain(value)
            if value is None or chain is None:
                continue
            array = _computed(model, value, chain)
            key = (array.tobytes(), frozenset(v.name for v in _sources(chain) if v.const_value.size > _SIZES))  # type: ignore[union-attr]
            if key not in made:
                made[key] = _initializer(model, f"{node.name or node.op_type}_{letter}", array)
            node.replace_input_with(i, made[key])
            _drop(chain)


def _initializer(model: ir.Model, name: str, array: np.ndarray) -> ir.Value:
    name = graph.unique(name, graph.values(model))
    value = ir.Value(name=name, shape=ir.Shape(array.shape), const_value=ir.tensor(array, name=name))
    value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
    model.graph.register_initializer(value)
    return value


def _sources(chain: list[ir.Node]) -> list[ir.Value]:
    return [v for n in chain for v in n.inputs if v is not None and v.const_value is not None]


def _chain(value: ir.Value) -> list[ir.Node] | None:
    """The nodes that make a value from constants by moving numbers about, in order; None if there are others."""
    found: dict[int, ir.Node] = {}
    waiting = [value]
    while waiting:
        node = (last := waiting.pop()).producer()
        if node is None or node.op_type not in _MOVES or node.domain not in ("", "ai.onnx") or len(found) > _MOST:
            return None
        assert last is not None
        found.pop(id(node), None)  # further up than it was thought
        found[id(node)] = node
        waiting += [v for v in node.inputs if v is not None and v.const_value is None]
    return list(found.values())[::-1]


def _computed(model: ir.Model, value: ir.Value, chain: list[ir.Node]) -> np.ndarray:
    from onnx.reference import ReferenceEvaluator

    constants = {v.name: v.const_value.numpy() for v in _sources(chain)}  # type: ignore[union-attr]
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    output = onnx.helper.make_empty_tensor_value_info(value.name or "")
    made = onnx.helper.make_graph([ir.to_proto(n) for n in chain], "gates", [], [output], tensors)
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in model.opset_imports.items()]
    proto = onnx.helper.make_model(made, opset_imports=opsets, ir_version=model.ir_version)
    found: Any = ReferenceEvaluator(proto).run(None, {})
    return np.ascontiguousarray(found[0])


def _drop(chain: list[ir.Node]) -> None:
    """The nodes that nobody reads any more, and the constants that only they read."""
    for node in reversed(chain):
        if any(v.uses() or v.is_graph_output() for v in node.outputs) or node.graph is None:
            continue
        inputs = [v for v in node.inputs if v is not None]
        node.graph.remove(node, safe=True)
        for v in inputs:
            if v.is_initializer() and not v.uses() and not v.is_graph_output() and not v.is_graph_input():
                del v.graph.initializers[str(v.name)]  # type: ignore[union-attr]
