"""A low-rank layer is two layers in the file: the graph is rewritten so before anything else is done with it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import torch

from ..codings import Coding, LowRank
from ..models.layer import Layer
from .coded import Coded
from .graph import constant, copied, drop_unused
from .locate import PERMUTED, Site, locate_all

SPLITTABLE = {("Conv", 1), ("MatMul", 1), ("Gemm", 1)}


def expanded(model: ir.Model, coded: Coded) -> tuple[ir.Model, Coded]:
    """The same with every `LowRank` coding as two layers, NAME.right (first) and NAME.left, each with its own coding.

    A layer whose operator can't be split (an embedding, a grouped convolution) keeps its product as one weight.
    """
    wanted = tuple(x for x in coded.layers if isinstance(coded.codings.get(x.name), LowRank))
    if not wanted:
        return model, coded
    model = copied(model)
    layers, codings, execution = list(coded.layers), dict(coded.codings), dict(coded.execution)
    for name, site in locate_all(model, wanted).items():
        coding = codings[name]
        if not isinstance(coding, LowRank) or not _can_split(site):
            continue
        halves = _halves(site.layer, coding)
        _split(model.graph, site, halves)
        layers = [x for x in layers if x.name != name] + list(halves)
        del codings[name]
        codings |= {halves[0].name: coding.right, halves[1].name: coding.left}
        if name in execution:
            execution |= dict.fromkeys((h.name for h in halves), execution.pop(name))
    return drop_unused(model), Coded(tuple(layers), codings, execution, coded.fisher)


def _can_split(site: Site) -> bool:
    fits = bool(site.uses) and all((n.op_type, i) in SPLITTABLE for n, i in site.uses)
    return fits and site.layer.groups == 1 and site.gain is None and site.layer.kind in ("linear", "conv")


def _halves(layer: Layer, coding: LowRank) -> tuple[Layer, Layer]:
    rows, rank = coding.left.shape
    right, left = _matrix(coding.right), _matrix(coding.left)
    if layer.kind == "conv":
        right = right.reshape(rank, *layer.weight.shape[1:])
        left = left.reshape(rows, rank, *[1] * (layer.weight.ndim - 2))
    first = replace(layer, name=f"{layer.name}.right", weight=right, out_axis=0, mask=None)
    return first, replace(layer, name=f"{layer.name}.left", weight=left, out_axis=0, mask=None)


def _matrix(coding: Coding) -> torch.Tensor:
    return coding.decode().float()


def _split(graph: ir.Graph, site: Site, halves: tuple[Layer, Layer]) -> None:
    if site.layer.kind == "conv":
        values = [_weight(graph, h, tuple(range(h.weight.ndim))) for h in halves]
    else:  # in the orientation that the operator reads: [in, out], or [out, in] for a Gemm with transB
        values = [_weight(graph, h, site.permuted if site.layer.out_axis == 0 else (1, 0)) for h in halves]
    for i, (node, _) in enumerate(site.uses):
        between = f"{site.layer.name}_between{i or ''}"
        first = ir.node(
            node.op_type, [node.inputs[0], values[0]], name=f"{node.name}_right",
            attributes=dict(node.attributes) if node.op_type == "Conv" else _first_attributes(node),
        )  # fmt: skip
        first.outputs[0].name = between
        first.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        (node.graph or graph).insert_before(node, first)
        node.replace_input_with(0, first.outputs[0])
        node.replace_input_with(1, values[1])
        if node.op_type == "Conv":
            _pointwise(node, len(site.layer.weight.shape) - 2)
        elif node.op_type == "Gemm":
            node.attributes["transA"] = ir.AttrInt64("transA", 0)


def _first_attributes(node: ir.Node) -> dict[str, ir.Attr]:
    """alpha and beta stay with the second half; a transposed input is turned by the first."""
    return {k: v for k, v in node.attributes.items() if k in ("transA", "transB")}


def _pointwise(node: ir.Node, dims: int) -> None:
    for key in ("auto_pad", "dilations", "kernel_shape", "pads", "strides"):
        node.attributes.pop(key, None)
    node.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", [1] * dims)


def _weight(graph: ir.Graph, half: Layer, permuted: tuple[int, ...]) -> ir.Value:
    array = np.ascontiguousarray(half.weight.permute(permuted).numpy())
    value = constant(graph, half.name, array)
    value.metadata_props[PERMUTED] = ",".join(map(str, permuted))
    return value
