"""Activations that a quantizer swallowed: a ReLU is no more than the lower end of a range, until that range is gone."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from ..targets.graph import array_of, constant
from .match import Match
from .units import QUANTIZERS

CLAMPS = ("Relu", "Clip")


def unswallowed(model: ir.Model, original: ir.Model, matches: Sequence[Match]) -> ir.Model:
    """Puts ReLU and Clip back before the quantizers that stand for them; the model computes what it did before.

    ONNX Runtime's tools drop a ReLU whose output is rounded to [0, high]. A layer that is put back to float needs it.
    """
    made = {str(o.name): node for node in original.graph for o in node.outputs}
    partner = {m.unit: m.original.node for m in matches}
    for node in list(model.graph):
        value = node.inputs[0] if node.op_type == "QuantizeLinear" else None
        maker = value.producer() if value is not None else None
        if value is None or maker is None or maker.op_type in (*CLAMPS, *QUANTIZERS):
            continue
        clamp = made.get(str(value.name))
        if clamp is None or clamp.op_type not in CLAMPS:
            clamp = _behind(partner.get(str(maker.name)), value)
        if clamp is not None:
            _insert(model.graph, maker, value, clamp)
    return model


def _behind(node: ir.Node | None, value: ir.Value) -> ir.Node | None:
    """The clamp that follows a node of the original, if the compressed one has nothing but quantizers there."""
    users = [u.node for u in node.outputs[0].uses()] if node is not None else []
    alone = all(u.node.op_type == "QuantizeLinear" for u in value.uses())
    return users[0] if alone and len(users) == 1 and users[0].op_type in CLAMPS else None


def _insert(graph: ir.Graph, maker: ir.Node, value: ir.Value, clamp: ir.Node) -> None:
    if any(v is not None and array_of(v) is None for v in clamp.inputs[1:]):
        return
    name, uses = str(value.name), list(value.uses())
    bounds = [None if v is None else constant(graph, f"{name}.{v.name}", array_of(v)) for v in clamp.inputs[1:]]  # type: ignore[arg-type]
    new = ir.node(clamp.op_type, [value, *bounds], attributes=dict(clamp.attributes), name=f"{maker.name}.{clamp.name}")
    out = new.outputs[0]
    out.type, out.shape = value.type, value.shape
    graph.insert_after(maker, new)
    for use in uses:
        use.node.replace_input_with(use.idx, out)
    value.name, out.name = f"{name}.unclipped", name
