"""Factors and summands that are one number, inside the convolution before or behind them; HardSwish as one operator."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from .graph import Array, array_of, constant, drop_unused
from .locate import PARAMETER

CONVOLUTIONS = ("Conv", "ConvTranspose")
FOLDED = "lessen.folded"  # note at an initializer: (gain, shift), what is held is parameter * gain + shift
SWISH_OPSET = 14  # the first that has HardSwish; what it changes of other operators, inference does not use
CLOSE = 1e-5


def folded(model: ir.Model) -> None:
    """Takes away operators that cost a pass over the activations each and that a weight or an operator can do.

    x * clip(x + 3, 0, 6) / 6 becomes HardSwish; conv(x) * a + c is in the convolution's weight and bias, with a > 0;
    conv(a * x + c) too, but that c stays in front (as c / a) where the convolution pads with zeros. A scale for each
    convolution's output and input is what "learnable affine blocks" come to (PP-LCNetV4, Cui et al. 2021; MobileOne):
    in an OCR detector they were 8 of 10 operators that ran between two convolutions, half the time of its integer file.
    """
    for node in list(model.graph):
        if node.op_type in ("Clip", "HardSigmoid") and node.graph is model.graph:
            _one_swish(model, node)
    drop_unused(model)
    for node in list(model.graph):
        if node.op_type in CONVOLUTIONS and _own(node.inputs[1]):
            while (behind := _sole_reader(node.outputs[0])) is not None and _into_outputs(node, behind):
                pass
    for node in reversed(list(model.graph)):
        _into_readers(node)


def rewritten(value: ir.Value, array: Array) -> Array:
    """What an initializer holds when its parameter becomes `array`."""
    gain, shift = value.meta.get(FOLDED, (1.0, 0.0))
    return (array * gain + shift).astype(array.dtype)


def _one_swish(model: ir.Model, gate: ir.Node) -> None:
    x = _gated(gate)
    last = None if x is None else _product_with(x, gate)
    if x is None or last is None:
        return
    node = ir.node("HardSwish", [x], name=last.name)
    old, new = last.outputs[0], node.outputs[0]
    model.graph.insert_before(last, node)
    _take_over(new, old)
    model.graph.opset_imports[""] = max(model.graph.opset_imports.get("", SWISH_OPSET), SWISH_OPSET)


def _gated(gate: ir.Node) -> ir.Value | None:
    """x, if the node makes clip(x + 3, 0, 6), or clip(x / 6 + 1 / 2, 0, 1)."""
    if gate.op_type == "HardSigmoid":
        slope, middle = gate.attributes.get_float("alpha", 0.2), gate.attributes.get_float("beta", 0.5)
        return gate.inputs[0] if _is(slope, 1 / 6) and _is(middle, 0.5) else None
    bounds = [_number(v) for v in gate.inputs[1:3]]
    add = gate.inputs[0].producer() if gate.inputs[0] is not None else None
    if len(bounds) < 2 or not (_is(bounds[0], 0) and _is(bounds[1], 6)) or add is None or add.op_type != "Add":
        return None
    a, b = add.inputs
    return a if _is(_number(b), 3) else b if _is(_number(a), 3) else None


def _product_with(x: ir.Value, gate: ir.Node) -> ir.Node | None:
    """The node that makes x times the gate, which a clip to 6 needs divided by that, in whatever order."""
    missing = {"product"} if gate.op_type == "HardSigmoid" else {"product", "sixth"}
    node = gate
    while missing:
        reader = _sole_reader(node.outputs[0])
        if reader is None:
            return None
        affine = _affine(reader, node.outputs[0])
        if "sixth" in missing and affine is not None and _is(affine[0], 1 / 6) and affine[1] == 0:
            missing.remove("sixth")
        elif "product" in missing and reader.op_type == "Mul" and any(v is x for v in reader.inputs):
            missing.remove("product")
        else:
            return None
        node = reader
    return node


def _into_outputs(conv: ir.Node, behind: ir.Node) -> bool:
    """conv(x) * a + c with the factor in the weight, all in the bias; False where that can't be."""
    affine = _affine(behind, conv.outputs[0])
    bias = conv.inputs[2] if len(conv.inputs) > 2 else None
    if affine is None or affine[0] <= 0 or (bias is not None and not _own(bias)):
        return False
    factor, summand = affine
    if summand or bias is not None:
        _add_to_bias(conv, factor, summand)
    if factor != 1:
        _change(conv.inputs[1], factor)
    _take_over(conv.outputs[0], behind.outputs[0])
    return True


def _into_readers(node: ir.Node) -> None:
    """a * x or x + c with the factor in the weights of the convolutions that read it, the summand in their biases."""
    affines = ((x, _affine(node, x)) for x in node.inputs if x is not None and _number(x) is None)
    x, affine = next(((x, a) for x, a in affines if a is not None), (None, None))
    readers = _convolutions_that_read(node.outputs[0])
    if x is None or affine is None or not readers or affine[0] <= 0:
        return
    factor, summand = affine
    if summand and all(_without_border(r) for r in readers):
        for reader in readers:
            weight = array_of(reader.inputs[1])
            assert weight is not None
            _add_to_bias(reader, 1.0, summand * weight.sum(axis=tuple(range(1, weight.ndim)), dtype=np.float64))
    elif summand:
        _scale_first(node, x, summand, readers)
        return
    else:
        for reader in readers:
            _change(reader.inputs[1], factor)
    _bypass(node, x)


def _scale_first(add: ir.Node, x: ir.Value, summand: float, readers: Sequence[ir.Node]) -> None:
    """conv(a * x + c) as (a * conv)(x + c / a)."""
    product = x.producer()
    affine = None if product is None else next((a for v in product.inputs if v and (a := _affine(product, v))), None)
    if product is None or affine is None or affine[0] <= 0 or affine[1] or _sole_reader(x) is not add:
        return
    scaled = next(v for v in product.inputs if v is not None and _number(v) is None)
    for reader in readers:
        _change(reader.inputs[1], affine[0])
    assert add.graph is not None
    moved = constant(add.graph, f"{add.outputs[0].name}_summand", np.array(summand / affine[0], np.float32))
    for i, value in enumerate(add.inputs):
        add.replace_input_with(i, scaled if value is x else moved)
    if add.op_type == "Sub":
        add.op_type = "Add"
    add.graph.remove(product, safe=True)


def _affine(node: ir.Node, x: ir.Value) -> tuple[float, float] | None:
    """(a, c) of a node that makes a * x + c with numbers; None if it makes something else."""
    if node.op_type not in ("Mul", "Div", "Add", "Sub") or node.graph is None or len(node.inputs) != 2:
        return None
    first, second = node.inputs
    number = _number(second if first is x else first)
    if number is None or first is second or (first is not x and (second is not x or node.op_type in ("Div", "Sub"))):
        return None
    match node.op_type:
        case "Mul":
            return number, 0.0
        case "Div":
            return (1 / number, 0.0) if number else None
        case "Add":
            return 1.0, number
        case _:
            return 1.0, -number


def _number(value: ir.Value | None) -> float | None:
    """A constant of one element that is no parameter; None if it is something else."""
    array = None if value is None or PARAMETER in value.metadata_props else array_of(value)
    if array is None or array.size != 1 or array.ndim > 3 or array.dtype != np.float32:
        return None
    number = float(array.reshape(-1)[0])
    return number if math.isfinite(number) else None


def _is(number: float | None, wanted: float) -> bool:
    return number is not None and math.isclose(number, wanted, rel_tol=CLOSE)


def _sole_reader(value: ir.Value) -> ir.Node | None:
    uses = list(value.uses())
    alone = len(uses) == 1 and not value.is_graph_output() and uses[0].node.graph is value.producer().graph  # type: ignore[union-attr]
    return uses[0].node if alone else None


def _convolutions_that_read(value: ir.Value) -> list[ir.Node]:
    """All that read it, if those are convolutions with weights of their own."""
    uses, made = list(value.uses()), value.producer()
    fit = all(
        u.node.op_type in CONVOLUTIONS and u.idx == 0 and _own(u.node.inputs[1]) and u.node.graph is made.graph  # type: ignore[union-attr]
        and (len(u.node.inputs) < 3 or u.node.inputs[2] is None or _own(u.node.inputs[2]))
        for u in uses
    )  # fmt: skip
    return [] if value.is_graph_output() or not fit else [u.node for u in uses]


def _own(value: ir.Value | None) -> bool:
    """An initializer that nobody else reads."""
    return value is not None and value.is_initializer() and not value.is_graph_input() \
        and array_of(value) is not None and len(value.uses()) == 1  # fmt: skip


def _without_border(conv: ir.Node) -> bool:
    pads = conv.attributes.get_ints("pads", ())
    return conv.op_type == "Conv" and not any(pads) and conv.attributes.get_string("auto_pad", "NOTSET") in (
        "NOTSET", "VALID")  # fmt: skip


def _add_to_bias(conv: ir.Node, factor: float, summand: float | Array) -> None:
    if len(conv.inputs) > 2 and conv.inputs[2] is not None:
        _change(conv.inputs[2], factor, summand)
        return
    weight = array_of(conv.inputs[1])
    assert weight is not None and conv.graph is not None
    groups = conv.attributes.get_int("group", 1)
    channels = weight.shape[0] if conv.op_type == "Conv" else weight.shape[1] * groups
    bias = np.broadcast_to(np.asarray(summand, np.float32), (channels,)).copy()
    conv.resize_inputs(3)
    conv.replace_input_with(2, constant(conv.graph, f"{conv.outputs[0].name}_bias", bias))


def _change(value: ir.Value | None, factor: float, summand: float | Array = 0.0) -> None:
    """An initializer times a factor and plus a summand; it remembers that (`rewritten`)."""
    held = array_of(value)
    assert value is not None and held is not None
    gain, shift = value.meta.get(FOLDED, (1.0, 0.0))
    value.meta[FOLDED] = (gain * factor, shift * factor + summand)
    value.const_value = ir.tensor((held * factor + summand).astype(np.float32), name=value.name)


def _take_over(new: ir.Value, old: ir.Value) -> None:
    """`new` becomes what `old` was, by name and for all that read it; the node that made `old` goes."""
    node = old.producer()
    assert node is not None and node.graph is not None
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    name, new.type, new.shape = old.name, old.type, old.shape
    old.name, new.name = f"{name}_replaced", name
    node.graph.remove(node, safe=True)


def _bypass(node: ir.Node, x: ir.Value) -> None:
    node.outputs[0].replace_all_uses_with(x)
    assert node.graph is not None
    node.graph.remove(node, safe=True)
