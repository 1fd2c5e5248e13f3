"""Linear layers whose input is rounded to a range of its own in every token: dynamic quantization, token by token.

Each row of the input is divided by its largest magnitude, so that all of them reach exactly from -1 to 1: there the
range is known, no calibration can miss it, and the ordinary integer kernels of both runtimes do the rest. What comes
out is multiplied by the same, row by row, before the bias is added. With `whole`, all rows are divided by the largest
of the whole tensor: one range for a batch, where the runtime has no kernel that finds it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from .chain import Chain
from .locate import Site
from .ranges import LEVELS, MIDDLE, Range

UNIT = Range(-MIDDLE / (LEVELS - MIDDLE), 1.0)  # codes 1 to 255 around the middle: 127 steps on each side
AXES_ARE_INPUTS = 18  # opset
LEAST = np.float32(2.0**-100)  # of a row that is all zeros; its inverse is finite


def brought_to_one(graph: ir.Graph, sites: Mapping[str, Site], whole: Mapping[str, bool]) -> dict[str, Range]:
    """Rewrites these layers in place; the weights stay where they are.

    Args:
        sites: plain products of an activation and a constant, by layer name (`dynamic.can_be_live`).
        whole: by layer name; one largest magnitude for the batch instead of one for each token.

    Returns:
        the ranges of the new tensors that the layers read.
    """
    found: dict[str, Range] = {}
    for name, site in sites.items():
        node = site.uses[0][0]
        unit, reach = _unit(graph, node, whole[name])
        found[str(unit.name)] = UNIT
        node.replace_input_with(0, unit)
        _scaled_back(graph, node, reach)
    return found


def _unit(graph: ir.Graph, node: ir.Node, whole: bool) -> tuple[ir.Value, ir.Value]:
    """The input divided by its reach, and the reach; made once for all that read it."""
    x = node.inputs[0]
    assert x is not None
    name = f"{x.name}_by_{'batch' if whole else 'token'}"
    known = next((u.node for u in x.uses() if u.node.name == name), None)
    if known is not None:
        return known.outputs[0], known.inputs[1].producer().inputs[0]  # type: ignore[union-attr, return-value]
    chain = Chain(graph, name)
    reach = chain.op("Max", _largest(chain, chain.op("Abs", x), whole), chain.shared("least", np.array(LEAST)))
    unit = chain.op("Mul", x, chain.op("Reciprocal", reach))
    chain.nodes[-1].name = unit.name = name
    unit.type, unit.shape = x.type, x.shape
    producer = x.producer()
    if producer is None:
        graph.insert_before(graph[0], chain.nodes)
    else:
        graph.insert_after(producer, chain.nodes)
    return unit, reach


def _largest(chain: Chain, sizes: ir.Value, whole: bool) -> ir.Value:
    """Over all axes or over the last one, which is an attribute before opset 18 and an input from then on."""
    if whole:
        return chain.op("ReduceMax", sizes, keepdims=1)
    if chain.graph.opset_imports.get("", AXES_ARE_INPUTS) < AXES_ARE_INPUTS:
        return chain.op("ReduceMax", sizes, keepdims=1, axes=[-1])
    return chain.op("ReduceMax", sizes, chain.shared("last", np.array([-1], np.int64)), keepdims=1)


def _scaled_back(graph: ir.Graph, node: ir.Node, reach: ir.Value) -> None:
    """The product times the reach, then the bias of a Gemm; under the name that the product had."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        node.replace_input_with(2, None)
    old = node.outputs[0]
    readers = list(old.uses())
    chain = Chain(graph, f"{node.name}_by_token")
    result = chain.op("Mul", old, reach)
    if bias is not None:
        result = chain.op("Add", result, bias)
    graph.insert_after(node, chain.nodes)
    result.type, result.shape = old.type, old.shape
    outputs = [i for i, value in enumerate(graph.outputs) if value is old]
    for use in readers:
        use.node.replace_input_with(use.idx, result)
    for i in outputs:
        graph.outputs[i] = result
    if outputs:
        result.name, old.name = old.name, f"{old.name}_of_one"
