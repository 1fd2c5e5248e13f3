"""One form for every quantized file: float operators between QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
import onnx_ir as ir

from ..targets.graph import Array, array_of, constant, copied, drop_unused

OUTPUT = "output:"  # prefix of the unit that reads a rounded output of the graph
DEQUANTIZE, QUANTIZE = "DequantizeLinear", "QuantizeLinear"
_STAY = ("MatMulInteger", "ConvInteger", "MatMulNBits")


def normal(model: ir.Model, only: Collection[str] | None = None, stays: bool = False) -> ir.Model:
    """A copy in which every node has a name and quantized operators are float ones between pairs.

    QLinearConv, QLinearMatMul, QGemm, QLinearAdd, ... become x -> DequantizeLinear -> Conv -> QuantizeLinear;
    ConvInteger and MatMulInteger (dynamic quantization) and MatMulNBits become the product of what they decode.
    The values are the same but for the order of float sums.

    Args:
        only: names of the products to rewrite; None for all of them.
        stays: leave those alone that would no longer run in integers as pairs (dynamic ones and 4-bit products).
    """
    model = named(copied(model))
    for node in list(model.graph):
        if (only is not None and node.name not in only) or (stays and node.op_type in _STAY):
            continue
        if node.op_type in ("MatMulInteger", "ConvInteger"):
            _dynamic(model.graph, node)
        elif node.op_type == "MatMulNBits":
            _n_bits(model.graph, node)
        elif node.op_type in _OPERATORS:
            _q_operator(model.graph, node)
    return drop_unused(model)


def named(model: ir.Model) -> ir.Model:
    """Every node has a name of its own."""
    seen: set[str] = set()
    for number, node in enumerate(model.graph):
        name = node.name or f"{node.op_type}_{number}"
        while name in seen:
            name = f"{name}_{number}"
        node.name = name
        seen.add(name)
    return model


def with_outputs_named(model: ir.Model) -> ir.Model:
    """Rounded outputs of the graph pass through an Identity, so that reading them rounded can be told apart."""
    for place, value in enumerate(model.graph.outputs):
        maker = value.producer()
        if maker is None or maker.op_type != DEQUANTIZE:
            continue
        node = ir.node("Identity", [value], name=f"{OUTPUT}{value.name}")
        out, name = node.outputs[0], value.name
        value.name = f"{name}.rounded"
        out.name, out.type, out.shape = name, value.type or ir.TensorType(ir.DataType.FLOAT), value.shape
        model.graph.append(node)
        model.graph.outputs[place] = out
    return model


def _pair(graph: ir.Graph, before: ir.Node, x: ir.Value | None, scale: ir.Value | None, zero: ir.Value | None,
          axis: int | None = None) -> ir.Value:  # fmt: skip
    attributes = {} if axis is None else {"axis": axis}
    inputs = [x, scale] + ([zero] if zero is not None else [])
    node = ir.node(DEQUANTIZE, inputs, attributes=attributes)
    node.name = f"{before.name}.{x.name if x is not None else ''}.dequantize"
    node.outputs[0].name = f"{node.name}_output"
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    graph.insert_before(before, node)
    return node.outputs[0]


def _weight_axis(scale: ir.Value | None, axis: int) -> int | None:
    held = array_of(scale)
    return axis if held is not None and held.size > 1 else None


def _replace(graph: ir.Graph, node: ir.Node, new: Sequence[ir.Node]) -> None:
    """`new` ends with what makes the node's output."""
    old, made = node.outputs[0], new[-1].outputs[0]
    graph.insert_before(node, list(new))
    made.type, made.shape = old.type, old.shape
    old.replace_all_uses_with(made, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    made.name = old.name


def _requantized(graph: ir.Graph, node: ir.Node, product: ir.Node, scale: ir.Value | None, zero: ir.Value | None
                 ) -> None:  # fmt: skip
    product.outputs[0].name = f"{node.outputs[0].name}.float"
    quantize = ir.node(QUANTIZE, [product.outputs[0], scale] + ([zero] if zero is not None else []))
    quantize.name = f"{node.name}.quantize"
    _replace(graph, node, [product, quantize])


def _q_operator(graph: ir.Graph, node: ir.Node) -> None:
    product, scale, zero = _OPERATORS[node.op_type](graph, node)
    product.name = str(node.name)
    _requantized(graph, node, product, scale, zero)


def _linear_conv(graph: ir.Graph, node: ir.Node) -> tuple[ir.Node, ir.Value | None, ir.Value | None]:
    x, xs, xz, w, ws, wz, ys, yz, *bias = node.inputs
    inputs = [_pair(graph, node, x, xs, xz), _pair(graph, node, w, ws, wz, _weight_axis(ws, 0))]
    b = array_of(bias[0]) if bias else None
    if b is not None:
        inputs.append(_bias(graph, node, b, xs, ws))
    return ir.node("Conv", inputs, attributes=dict(node.attributes)), ys, yz


def _bias(graph: ir.Graph, node: ir.Node, codes: Array, xs: ir.Value | None, ws: ir.Value | None) -> ir.Value:
    """An int32 bias whose step is the product of the two others'."""
    step = (array_of(xs) * array_of(ws)).astype(np.float32).reshape(-1)  # type: ignore[operator]
    scale = constant(graph, f"{node.name}.bias_scale", np.ascontiguousarray(np.broadcast_to(step, codes.shape)))
    return _pair(graph, node, constant(graph, f"{node.name}.bias", codes), scale, None, 0)


def _linear_matmul(graph: ir.Graph, node: ir.Node) -> tuple[ir.Node, ir.Value | None, ir.Value | None]:
    a, a_s, az, b, bs, bz, ys, yz = node.inputs
    held = array_of(b)
    axis = None if held is None else _weight_axis(bs, held.ndim - 1)
    return ir.node("MatMul", [_pair(graph, node, a, a_s, az), _pair(graph, node, b, bs, bz, axis)]), ys, yz


def _q_gemm(graph: ir.Graph, node: ir.Node) -> tuple[ir.Node, ir.Value | None, ir.Value | None]:
    a, a_s, az, b, bs, bz, c, ys, yz, *_ = [*node.inputs, None, None, None]
    axis = _weight_axis(bs, 0 if node.attributes.get_int("transB", 0) else 1)
    inputs = [_pair(graph, node, a, a_s, az), _pair(graph, node, b, bs, bz, axis)]
    codes = array_of(c)
    if codes is not None:
        inputs.append(_bias(graph, node, codes, a_s, bs))
    return ir.node("Gemm", inputs, attributes=dict(node.attributes)), ys, yz


def _two(kind: str) -> Callable[..., tuple[ir.Node, ir.Value | None, ir.Value | None]]:
    def made(graph: ir.Graph, node: ir.Node) -> tuple[ir.Node, ir.Value | None, ir.Value | None]:
        a, a_s, az, b, bs, bz, ys, yz, *_ = [*node.inputs, None]
        return ir.node(kind, [_pair(graph, node, a, a_s, az), _pair(graph, node, b, bs, bz)]), ys, yz

    return made


def _one(kind: str) -> Callable[..., tuple[ir.Node, ir.Value | None, ir.Value | None]]:
    def made(graph: ir.Graph, node: ir.Node) -> tuple[ir.Node, ir.Value | None, ir.Value | None]:
        x, xs, xz, ys, yz, *_ = [*node.inputs, None]
        kept = {k: v for k, v in node.attributes.items() if k != "channels_last"}
        return ir.node(kind, [_pair(graph, node, x, xs, xz)], attributes=kept), ys, yz

    return made


_OPERATORS: dict[str, Callable[..., tuple[ir.Node, ir.Value | None, ir.Value | None]]] = {
    "QLinearConv": _linear_conv, "QLinearMatMul": _linear_matmul, "QGemm": _q_gemm, "QLinearAdd": _two("Add"),
    "QLinearMul": _two("Mul"), "QLinearSigmoid": _one("Sigmoid"), "QLinearLeakyRelu": _one("LeakyRelu"),
    "QLinearGlobalAveragePool": _one("GlobalAveragePool"), "QLinearAveragePool": _one("AveragePool"),
}  # fmt: skip


def _dynamic(graph: ir.Graph, node: ir.Node) -> None:
    """ConvInteger | MatMulInteger -> Cast -> Mul(x's step * the weight's): one float product of what they stand for."""
    x, w, xz, wz = [*node.inputs, None, None][:4]
    cast = next((u.node for u in node.outputs[0].uses() if u.node.op_type == "Cast"), None)
    scaled = next((u.node for u in cast.outputs[0].uses() if u.node.op_type == "Mul"), None) if cast else None
    steps = next((v for v in scaled.inputs if v is not cast.outputs[0]), None) if scaled and cast else None
    both = steps.producer() if steps is not None else None
    quantizer = x.producer() if x is not None else None
    if scaled is None or both is None or both.op_type != "Mul" or quantizer is None:
        return
    ws = next((v for v in both.inputs if v is not quantizer.outputs[1]), None)
    codes = array_of(w)
    if codes is None or array_of(ws) is None:
        return
    conv = node.op_type == "ConvInteger"
    axis = _weight_axis(ws, 0 if conv else codes.ndim - 1)
    inputs = [_pair(graph, scaled, x, quantizer.outputs[1], xz), _pair(graph, scaled, w, ws, wz, axis)]
    product = ir.node("Conv" if conv else "MatMul", inputs, attributes=dict(node.attributes), name=str(node.name))
    _replace(graph, scaled, [product])
    graph.remove([n for n in (cast, node) if n is not None], safe=True)


def _n_bits(graph: ir.Graph, node: ir.Node) -> None:
    """MatMulNBits: its weight as the float matrix that it stands for."""
    bits, rows, columns = (node.attributes.get_int(k, d) for k, d in (("bits", 4), ("N", 0), ("K", 0)))
    packed, scale = array_of(node.inputs[1]), array_of(node.inputs[2])
    zero = array_of(node.inputs[3]) if len(node.inputs) > 3 else None
    if bits != 4 or packed is None or scale is None or (zero is not None and zero.dtype != np.uint8):
        return
    codes = np.stack([packed & 15, packed >> 4], -1).reshape(rows, -1, node.attributes.get_int("block_size", 32))
    shift = np.full((rows, codes.shape[1]), 8)
    if zero is not None:
        shift = np.stack([zero & 15, zero >> 4], -1).reshape(rows, -1)[:, : codes.shape[1]]
    weight = (codes - shift[..., None].astype(np.float32)) * scale.reshape(rows, -1, 1)
    held = constant(graph, f"{node.name}.weight", weight.reshape(rows, -1)[:, :columns].T.astype(np.float32).copy())
    product = ir.node("MatMul", [node.inputs[0], held], name=str(node.name))
    if len(node.inputs) > 5 and node.inputs[5] is not None:
        product.outputs[0].name = f"{node.outputs[0].name}.product"
        product = [product, ir.node("Add", [product.outputs[0], node.inputs[5]], name=f"{node.name}.bias")]  # type: ignore[assignment]
    _replace(graph, node, product if isinstance(product, list) else [product])
