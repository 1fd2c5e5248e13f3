"""From an onnx-ir model to a network's modules and its program."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from ...errors import LessenError
from . import graph, table
from .layers import MAKERS, Layer
from .opaque import OpaqueNode
from .program import Program, Step
from .recurrent import GATES
from .slots import BUFFER, SAME, STACKED, TRANSPOSED, Slot
from .values import Attributes, NotNative, to_tensor

_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_FIXED = {  # float constants in these places set how an operator works; nobody trains them
    "Resize", "Upsample", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Pad", "Where", "OneHot",
    "Range", "Clip", "NonMaxSuppression", "RoiAlign", "ConstantOfShape", "Expand", "Dropout", "Pow", "STFT", "DFT",
    "RotaryEmbedding", "TopK", "CumSum", "Equal", "Less", "Greater", "GridSample", "Reshape", "Concat",
}  # fmt: skip
_SMALL = 64  # elements up to which an integer constant takes part in host arithmetic


@dataclass
class Parts:
    """What the builder hands to the module, besides the modules it has put in."""

    slots: dict[str, Slot] = field(default_factory=dict)
    tied: dict[str, str] = field(default_factory=dict)  # further parameter path -> initializer key
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    modules: dict[int, str] = field(default_factory=dict)  # number of a node in the walk -> path of its module


class Builder:
    """Builds one network; implements `layers.Source`."""

    def __init__(self, network: nn.Module, model: ir.Model, where: str) -> None:
        self.network, self.model, self.where = network, model, where
        self.values = graph.values(model)
        self.keys = {id(v): k for k, v in self.values.items()}
        self.numbers = {id(n): i for i, n in enumerate(graph.nodes(model))}
        self.parts = Parts()
        self.layers: dict[int, Layer] = {}
        self.paths: dict[int, str] = {}  # of a layer's module
        self.recurrent: dict[object, int] = {}  # weights and attributes -> the first node that has them
        self.absorbed: dict[int, str] = {}  # an Add taken into a Linear: id -> "", and that Linear's output key
        self.used: set[str] = set(dir(network))

    # constants

    def weight(self, value: ir.Value | None, layout: str = SAME) -> tuple[str, Tensor, str] | None:
        """See `layers.Source`."""
        origin, layout = self._origin(value, layout)
        if origin is None:
            return None
        key = self.keys[id(origin)]
        slot = self.parts.slots.get(key)
        if slot is not None:
            shared = slot.layout == layout and layout in (SAME, TRANSPOSED)
            return (key, self.network.get_parameter(slot.paths[0]), layout) if shared else None
        if not _floating(origin) or not origin.const_value.size:  # type: ignore[union-attr]
            return None
        tensor = self.read(origin)
        return key, tensor.t().contiguous() if layout == TRANSPOSED and tensor.dim() == 2 else tensor, layout

    def _origin(self, value: ir.Value | None, layout: str) -> tuple[ir.Value | None, str]:
        """The initializer behind a value, seen through Identity and Transpose of a matrix."""
        while value is not None and not value.is_initializer():
            node = value.producer()
            if node is None or node.op_type not in ("Identity", "Transpose") or node.domain not in ("", "ai.onnx"):
                return None, layout
            value = node.inputs[0]
            if node.op_type == "Transpose":
                if layout not in (SAME, TRANSPOSED) or value is None or graph.rank(value) != 2:
                    return None, layout
                perm = node.attributes.get("perm")
                if perm is None or list(perm.as_ints()) == [1, 0]:
                    layout = TRANSPOSED if layout == SAME else SAME
        return (value, layout) if value is not None and value.const_value is not None else (None, layout)

    def read(self, value: ir.Value) -> Tensor:
        """An initializer's data, copied out of the file; refuses NaN and infinite numbers."""
        tensor = to_tensor(value.const_value.numpy())  # type: ignore[union-attr]
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()) and not _mask_like(tensor):
            raise LessenError(
                f"tensor {value.name!r} holds NaN or infinite numbers",
                where=self.where,
                mend="the training diverged or the file is damaged: export sound weights",
            )
        return tensor

    def name(self, wanted: str) -> str:
        """A free attribute name made of `wanted`."""
        name = graph.unique(graph.identifier(wanted), self.used)
        self.used.add(name)
        return name

    def provide(self, value: ir.Value, node: ir.Node) -> None:
        """Make an initializer available to a node that takes it as an operand."""
        key = self.keys[id(value)]
        if key in self.parts.slots or key in self.parts.constants:
            return
        array = value.const_value.numpy()  # type: ignore[union-attr]
        trained = _floating(value) and node.op_type not in _FIXED and (array.size > 1 or node.op_type == "PRelu")
        if not trained and (array.size <= _SMALL or array.dtype.kind in "SUO"):
            self.parts.constants[key] = array.copy()
            return
        try:
            tensor = self.read(value)
        except NotNative:
            self.parts.constants[key] = array.copy()
            return
        name = self.name(value.name or "constant")
        trained = trained and bool(torch.isfinite(tensor).all())
        if trained:
            self.network.register_parameter(name, nn.Parameter(tensor))
        else:
            self.network.register_buffer(name, tensor)
        self.parts.slots[key] = Slot((name,), SAME if trained else BUFFER)

    # layers

    def make_layers(self) -> None:
        """The modules of all nodes that hold weights."""
        for node in graph.nodes(self.model):
            maker = MAKERS.get(table.key(node.domain, node.op_type))
            if maker is None:
                continue
            try:
                a = self.attributes(node)
                twin = self.layers.get(self.recurrent.setdefault(self._weights_of(node, a), id(node)))
                layer = twin or maker(self, a, node)
            except NotNative:
                continue
            if twin is not None:
                self.layers[id(node)] = twin
                self.parts.modules[self.numbers[id(node)]] = self.paths[id(twin)]
            elif layer is not None:
                self._place(node, layer)

    def _weights_of(self, node: ir.Node, a: Attributes) -> object:
        """Equal for recurrent nodes that are one layer, run in several branches; for all others different."""
        if a.op not in GATES or not all(v is not None and v.is_initializer() for v in node.inputs[1:3]):
            return id(node)
        return (a.op, a.outputs, repr(sorted(a.values.items())), *map(id, node.inputs[1:4]))

    def _place(self, node: ir.Node, layer: Layer) -> None:
        exported = [self.values[key].name or "" for _, key, _ in layer.held if key not in self.parts.slots]
        path = self.name(_module_name(node, exported, self.numbers[id(node)]))
        self.network.add_module(path, layer.module)
        for names, key, layout in layer.held:
            paths = tuple(f"{path}.{n}" for n in names)
            if key in self.parts.slots:
                self.parts.tied.update(dict.fromkeys(paths, key))
            else:
                count = getattr(layer.module, "directions", 1) if layout == STACKED else 1
                self.parts.slots[key] = Slot(paths, layout, count)
        self.layers[id(node)], self.paths[id(layer)] = layer, path
        self.parts.modules[self.numbers[id(node)]] = path
        if layer.bias is not None:
            self.absorbed[id(layer.bias)] = ""

    # programs

    def attributes(self, node: ir.Node) -> Attributes:
        """A node's attributes as plain values."""
        opset = self.model.opset_imports.get("" if node.domain == "ai.onnx" else node.domain, 1)
        plain = {n: _plain(v) for n, v in node.attributes.items() if v.type != ir.AttributeType.GRAPH}
        last = max((i + 1 for i, v in enumerate(node.outputs) if v.name), default=1)
        return Attributes(table.key(node.domain, node.op_type), opset, plain, len(node.inputs), last)

    def program(self, of: ir.Graph) -> Program:
        """The steps of one graph."""
        defined = {id(v) for v in (*of.inputs, *of.initializers.values())}
        steps = []
        for node in of:
            if id(node) not in self.absorbed:
                steps.append(self._step(node))
        inputs = tuple(self.keys[id(v)] for v in of.inputs if id(v) in defined and not v.is_initializer())
        for value in of.outputs:
            if value.is_initializer():
                self.provide(value, ir.Node("", "Output", []))
        return Program(inputs, tuple(self._key(v) for v in of.outputs), steps)

    def _key(self, value: ir.Value | None) -> str:
        if value is None or not value.name:
            return ""
        if id(value) not in self.keys:
            raise LessenError(f"value {value.name!r} is used but nothing makes it", where=self.where,
                              mend="the file is damaged: export it again")  # fmt: skip
        return self.keys[id(value)]

    def _step(self, node: ir.Node) -> Step:
        a = self.attributes(node)
        where = f"node {node.name or (node.outputs[0].name if node.outputs else '')!r} ({a.op})"
        outputs = tuple(self.keys.get(id(v), "") for v in node.outputs)
        layer = self.layers.get(id(node))
        if layer is not None:
            if layer.bias is not None:
                outputs = (self.keys[id(layer.bias.outputs[0])],)
            data = tuple(self._operand(node, i) for i in layer.data if i < len(node.inputs))
            return Step(where, a, data, outputs, module=self.parts.modules[self.numbers[id(node)]], call=layer.call)
        inputs = tuple(self._operand(node, i) for i in range(len(node.inputs)))
        inner = graph.subgraphs(node)
        if a.op == "If" and set(inner) == {"then_branch", "else_branch"}:
            branches = {n: self.program(g) for n, g in inner.items()}
            captured = tuple(self._captured(inner, constants=False))
            return Step(where, a, inputs, outputs, branches=branches, captured=captured)
        return self._leaf(node, a, where, inputs, outputs, inner)

    def _leaf(self, node: ir.Node, a: Attributes, where: str, inputs: Any, outputs: Any, inner: Any) -> Step:
        op = table.NATIVE.get(a.op) if not inner else None
        reason = "" if op else "has subgraphs" if inner else "no native form"
        if op is not None and op.check is not None:
            reason = op.check(a)
        captured = tuple(self._captured(inner, constants=True))
        names = tuple(self.values[k].name or "" for k in captured)
        for graph_ in inner.values():
            for value in graph.outer_values(graph_):
                if value.is_initializer():
                    self.provide(value, node)
        opaque = OpaqueNode(ir.to_proto(node), dict(self.model.opset_imports), self.model.ir_version, names)
        opaque.constants = {v.name for v in node.inputs if v is not None and v.name and v.is_initializer()
                            and self.keys[id(v)] in self.parts.constants}  # fmt: skip
        return Step(where, a, inputs, outputs, op=op, captured=captured, opaque=opaque, reason=reason)

    def _captured(self, inner: dict[str, ir.Graph], constants: bool) -> list[str]:
        outer = {self._key(v): v for g in inner.values() for v in graph.outer_values(g)}
        return [k for k, v in outer.items() if k and (constants or not v.is_initializer())]

    def _operand(self, node: ir.Node, i: int) -> str:
        value = node.inputs[i]
        if value is not None and value.is_initializer():
            self.provide(value, node)
        return self._key(value)


def _plain(attribute: ir.Attr) -> Any:
    if attribute.is_ref():
        raise NotNative("a reference to a function's attribute")
    if attribute.type == ir.AttributeType.STRING:
        return attribute.as_string()
    if attribute.type == ir.AttributeType.STRINGS:
        return list(attribute.as_strings())
    if attribute.type == ir.AttributeType.TENSOR:
        return attribute.as_tensor().numpy()
    value = attribute.value
    return list(value) if isinstance(value, (list, tuple)) else value


def _floating(value: ir.Value) -> bool:
    kinds = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    return value.const_value is not None and value.const_value.dtype in kinds


def _mask_like(tensor: Tensor) -> bool:
    """Whether a constant with infinite numbers is a mask: two values at most, none of them NaN."""
    if tensor.numel() == 1:
        return not bool(torch.isnan(tensor).any())
    return not bool(torch.isnan(tensor).any()) and tensor.unique().numel() <= 2


def _module_name(node: ir.Node, held: list[str], number: int) -> str:
    """As the exporter named the weight ("features.0.weight"), the bias or the node; else operator and number."""
    for end in (".weight", "/kernel", ".bias"):
        for name in held:
            if name.endswith(end):
                return name.removesuffix(end)
    return node.name or f"{node.op_type}_{number}"
