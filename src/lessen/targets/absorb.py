"""Multiplying an activation channel by channel: inside the operator that makes it if that can be, else after it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from .graph import Array, array_of, constant
from .locate import Site

NORMS = {"LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization"}


def absorb(graph: ir.Graph, x: ir.Value | None, members: Sequence[Site], factor: Array) -> dict[str, Array]:
    """Makes every site in `members` read x * factor instead of x.

    Args:
        x: what they read now.
        factor: float32 [channels], along the last axis of x.

    Returns:
        initializers that were multiplied, and by what; empty when a Mul had to be put behind x.
    """
    assert x is not None
    readers = list(dict.fromkeys(node for s in members for node, _ in s.uses))
    if {use.node for use in x.uses()} == set(readers) and not x.is_graph_output():
        absorbers = _absorbers(x, len(factor))
        if absorbers is not None:
            for value in absorbers:
                held = array_of(value)
                assert held is not None
                value.const_value = ir.tensor((held * factor).astype(np.float32), name=value.name)
            return {str(v.name): factor for v in absorbers}
    _multiply(graph, x, readers, factor)
    return {}


def _absorbers(x: ir.Value, channels: int) -> list[ir.Value] | None:
    """The initializers that x is linear in, channel by channel: of a norm, or of a final Mul and the Adds behind it."""
    node = x.producer()
    if node is None or len(node.outputs[0].uses()) == 0:
        return None
    if node.op_type in NORMS and node.attributes.get_int("axis", -1) == -1:
        found = [v for v in node.inputs[1:3] if v is not None]
        return found if found and all(_own(v, channels) for v in found) else None
    if node.op_type not in ("Mul", "Add"):
        return None
    for i in (0, 1):
        value, other = node.inputs[i], node.inputs[1 - i]
        if value is None or other is None or not _own(value, channels):
            continue
        if node.op_type == "Mul":
            return [value]
        behind = _absorbers(other, channels) if len(other.uses()) == 1 and not other.is_graph_output() else None
        return None if behind is None else [value, *behind]
    return None


def _own(value: ir.Value, channels: int) -> bool:
    """A vector of the channels that nobody else reads."""
    return value.is_initializer() and value.const_value is not None and len(value.uses()) == 1 \
        and tuple(value.const_value.shape.numpy()) == (channels,)  # fmt: skip


def _multiply(graph: ir.Graph, x: ir.Value, readers: Sequence[ir.Node], factor: Array) -> None:
    node = ir.node("Mul", [x, constant(graph, f"{x.name}_smoothing", factor)], name=f"{x.name}_smooth")
    node.outputs[0].name = f"{x.name}_smoothed"
    node.outputs[0].type, node.outputs[0].shape = x.type, x.shape
    producer = x.producer()
    if producer is None:
        graph.insert_before(graph[0], node)
    else:
        graph.insert_after(producer, node)
    for user in readers:
        user.replace_input_with(0, node.outputs[0])
