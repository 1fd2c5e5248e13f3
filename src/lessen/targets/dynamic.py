"""Linear layers whose input is rounded to a range found anew in every batch: dynamic quantization.

What ONNX Runtime fuses into one kernel (DynamicQuantizeMatMul, or MatMulIntegerToFloat where several layers read the
same input): DynamicQuantizeLinear -> MatMulInteger -> Cast -> Mul by both scales -> Add of the bias. OpenVINO has no
kernel for it: it takes the operators one by one, in float. A sample's result depends, by less than a rounding step, on
the samples beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir

from .chain import FLOAT, Chain
from .graph import constant
from .locate import Site
from .placement import Placement
from .ranges import Range

LINEAR = ("MatMul", "Gemm")


def can_be_live(site: Site) -> bool:
    """A plain product of an activation and a constant weight, read once, not in a branch."""
    inside = all(node.graph is site.value.graph for node, _ in site.uses)
    return len(site.uses) == 1 and inside and site.layer.kind == "linear" and _plain(*site.uses[0])


def _plain(node: ir.Node, index: int) -> bool:
    factors = [node.attributes.get_float(k, 1.0) for k in ("alpha", "beta")]
    turned = node.attributes.get_int("transA", 0)
    return node.op_type in LINEAR and index == 1 and factors == [1.0, 1.0] and not turned


def live_inputs(placement: Placement, sites: Mapping[str, Site]) -> set[str]:
    """Tensors that only such layers read, and that share their scale with no other."""
    fit = {id(s.uses[0][0]) for s in sites.values() if can_be_live(s)}
    return {
        name for name, readers in placement.readers.items()
        if readers and all(id(node) in fit and index == 0 for node, index in readers) and placement.alone(name)
    }  # fmt: skip


def write_live(graph: ir.Graph, site: Site, codes: ir.Value, scale: np.ndarray) -> None:
    """The layer's product in integers.

    Args:
        codes: int8, laid out as the initializer.
        scale: float32 [output channels].
    """
    node = site.uses[0][0]
    x = node.inputs[0]
    assert x is not None
    chain = Chain(graph, site.value.name or site.layer.name)
    if site.axis == 0:
        codes = chain.op("Transpose", codes, perm=[1, 0])
    rounded, step, zero = _rounded(graph, x)
    product = chain.op("MatMulInteger", rounded, codes, zero)
    steps = chain.op("Mul", step, constant(graph, f"{chain.name}_scale", scale.reshape(-1)))
    result = chain.op("Mul", chain.op("Cast", product, to=FLOAT), steps)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        result = chain.op("Add", result, node.inputs[2])
    graph.insert_before(node, chain.nodes)
    old = node.outputs[0]
    result.type, result.shape, result.name = old.type, old.shape, f"{old.name}_live"
    old.replace_all_uses_with(result, replace_graph_outputs=True)
    if result.is_graph_output():
        old.name, result.name = f"{old.name}_replaced", old.name
    graph.remove([node], safe=True)


def _rounded(graph: ir.Graph, x: ir.Value) -> tuple[ir.Value, ir.Value, ir.Value]:
    """The input's codes, scale and zero point; made once for all that read it."""
    for use in x.uses():
        if use.node.op_type == "DynamicQuantizeLinear":
            codes, step, zero = use.node.outputs
            return codes, step, zero
    node = ir.node("DynamicQuantizeLinear", [x], num_outputs=3, name=f"{x.name}_live")
    for value, what in zip(node.outputs, ("codes", "scale", "zero"), strict=True):
        value.name = f"{x.name}_{what}"
    producer = x.producer()
    if producer is None:
        graph.insert_before(graph[0], node)
    else:
        graph.insert_after(producer, node)
    return node.outputs[0], node.outputs[1], node.outputs[2]


def round_live(graph: ir.Graph, readers: Iterable[tuple[ir.Node, int]]) -> None:
    """Nodes whose weight stays float read their input as it is when it has been rounded to the batch's own range."""
    for node, index in readers:
        x = node.inputs[index]
        assert x is not None
        chain = Chain(graph, f"{node.name}_live")
        rounded = chain.op("DequantizeLinear", *_rounded(graph, x))
        rounded.type, rounded.shape = x.type, x.shape
        graph.insert_before(node, chain.nodes)
        node.replace_input_with(index, rounded)


def live_in(placement: Placement, sites: Mapping[str, Site], ranges: Mapping[str, Range]) -> set[str]:
    """Of the tensors that can be, those whose range says so."""
    return {name for name in live_inputs(placement, sites) if ranges[name].live}
