"""Nodes whose module is another now: folded away, cut in two, given a bias or other groups."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from torch import Tensor, nn

from ...errors import LessenError
from .values import to_host

NEW_BIAS = "new_bias"
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def refresh(node: ir.Node, module: nn.Module, has_bias: bool) -> bool:
    """Make a node say what its module (of the same kind) is; True if more than weights changed."""
    changed = False
    if isinstance(module, nn.modules.conv._ConvNd) and module.groups != _int(node, "group", 1):
        node.attributes["group"] = ir.AttrInt64("group", module.groups)
        changed = True
    bias = getattr(module, "bias", None)
    if isinstance(bias, Tensor) and not has_bias:
        _give_bias(node, bias)
        changed = True
    return changed


def _int(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def initializer(node: ir.Node, data: Tensor, role: str) -> ir.Value:
    """A new initializer beside a node, named after its output."""
    array = np.array(to_host(data.detach()), order="C")
    name = _beside(node, role)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), const_value=ir.Tensor(array, name=name))
    value.type = ir.TensorType(value.const_value.dtype)  # type: ignore[union-attr]
    assert node.graph is not None
    node.graph.register_initializer(value)
    return value


def new_bias(node: ir.Node) -> str:
    """The initializer of a bias that a node of the file did not have."""
    return _beside(node, NEW_BIAS)


def _beside(node: ir.Node, role: str) -> str:
    return f"{node.outputs[0].name}.{role}"


def _give_bias(node: ir.Node, bias: Tensor) -> None:
    value = initializer(node, bias, NEW_BIAS)
    if node.op_type in ("Conv", "ConvTranspose", "Gemm", "LayerNormalization"):
        if len(node.inputs) < 3:
            node.resize_inputs(3)
        node.replace_input_with(2, value)
        return
    _append(node, value)


def _append(node: ir.Node, bias: ir.Value) -> None:
    """Put an Add behind a node: its output takes over the name and the readers of the node's."""
    old = node.outputs[0]
    add = ir.Node("", "Add", [None, bias], num_outputs=1, name=f"{node.name or old.name}.add")
    new = add.outputs[0]
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    new.name, new.shape, new.type = old.name, old.shape, old.type
    old.name = f"{old.name}.product"
    add.replace_input_with(0, old)
    node.append(add)


def replace(node: ir.Node, module: nn.Module, kind: type) -> str | None:
    """Write a module of another kind in a node's place; where its parameters are now (None: nowhere).

    `nn.Identity` takes the node away; an `nn.Sequential` of linear or convolution layers becomes as many nodes, the
    last of which is the old one.
    """
    if isinstance(module, nn.Identity):
        node.op_type, node.domain = "Identity", ""
        node.resize_inputs(1)
        node.attributes.clear()
        return None
    chain = list(module) if isinstance(module, nn.Sequential) and kind in (nn.Linear, *_CONVS) else []
    if chain and all(isinstance(m, kind) for m in chain):
        for part, layer in enumerate(chain[:-1]):
            _insert(node, layer, part)
        if isinstance(chain[-1], _CONVS):
            _describe(node, chain[-1])
        return str(len(chain) - 1)
    raise LessenError(
        f"a {type(module).__name__} stands where {node.op_type} {node.name!r} was; it has no ONNX form here",
        mend="use the same kind, nn.Identity, or an nn.Sequential of the same kind",
    )


def _insert(node: ir.Node, layer: nn.Module, part: int) -> None:
    """A layer in front of a node."""
    assert isinstance(layer, (nn.Linear, *_CONVS))
    old = node.inputs[0]
    weight = layer.weight.t() if isinstance(layer, nn.Linear) else layer.weight
    inputs = [old, initializer(node, weight, f"weight_{part}")]
    if isinstance(layer, nn.Linear):
        new = ir.Node("", "MatMul", inputs, num_outputs=1)
    else:
        bias = [] if layer.bias is None else [initializer(node, layer.bias, f"bias_{part}")]
        new = ir.Node("", "Conv", [*inputs, *bias], num_outputs=1)
        _describe(new, layer)
    new.name = f"{node.name or node.outputs[0].name}.{part}"
    new.outputs[0].name = f"{node.outputs[0].name}.{part}"
    node.prepend(new)
    if isinstance(layer, nn.Linear) and layer.bias is not None:
        add = ir.Node("", "Add", [new.outputs[0], initializer(node, layer.bias, f"bias_{part}")], num_outputs=1)
        add.outputs[0].name = f"{new.outputs[0].name}.biased"
        node.prepend(add)
        new = add
    node.replace_input_with(0, new.outputs[0])


def _describe(node: ir.Node, layer: nn.Module) -> None:
    """The attributes of a convolution as its module has them."""
    assert isinstance(layer, _CONVS)
    node.attributes.pop("auto_pad", None)
    padding = [int(p) for p in layer.padding]
    for name, value in (("strides", layer.stride), ("dilations", layer.dilation), ("kernel_shape", layer.kernel_size),
                        ("pads", (*padding, *padding))):  # fmt: skip
        node.attributes[name] = ir.AttrInt64s(name, [int(v) for v in value])
    node.attributes["group"] = ir.AttrInt64("group", layer.groups)
