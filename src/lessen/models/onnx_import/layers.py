"""Nodes that hold weights, as torch modules that every technique knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import onnx_ir as ir
import torch
from torch import Tensor, nn

from . import graph, windows
from .ops_nn import cropped
from .ops_shape import positive
from .recurrent import GATES, Recurrent
from .slots import BUFFER, SAME, STACKED, TRANSPOSED
from .values import Attributes

_CONV: dict[int, Any] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
_CONV_TRANSPOSE: dict[int, Any] = {3: nn.ConvTranspose1d, 4: nn.ConvTranspose2d, 5: nn.ConvTranspose3d}
_BATCH_NORM = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


class Source(Protocol):
    """What a weighted node may ask of the builder: its initializers as tensors."""

    def weight(self, value: ir.Value | None, layout: str = SAME) -> tuple[str, Tensor, str] | None:
        """The initializer's key, data and layout if the value is one that can be held so."""


@dataclass(frozen=True)
class Layer:
    """A module to stand for a node.

    Args:
        module: the module; its parameters already hold the weights.
        held: (names of its parameters, initializer key, layout) for each initializer it holds.
        call: runs it: `call(module, a, *data)`.
        data: which inputs of the node it takes.
        bias: for a MatMul, the Add node whose constant it has taken in.
    """

    module: nn.Module
    held: tuple[tuple[tuple[str, ...], str, str], ...]
    call: Callable[..., Any]
    data: tuple[int, ...] = (0,)
    bias: ir.Node | None = None


Maker = Callable[[Source, Attributes, ir.Node], "Layer | None"]


def _set(module: nn.Module, name: str, tensor: Tensor, buffer: bool = False) -> None:
    tied = isinstance(tensor, nn.Parameter)  # another module's: the same object stays the same
    setattr(module, name, tensor if buffer or tied else nn.Parameter(tensor))


def _held(module: nn.Module, **found: tuple[str, Tensor, str] | None) -> tuple[tuple[tuple[str, ...], str, str], ...]:
    """Put the tensors into the module; what it holds then."""
    present = {n: f for n, f in found.items() if f is not None}
    for name, (_, tensor, layout) in present.items():
        _set(module, name, tensor, layout == BUFFER)
    return tuple(((name,), key, layout) for name, (key, _, layout) in present.items())


def _input(node: ir.Node, i: int) -> ir.Value | None:
    return node.inputs[i] if i < len(node.inputs) else None


def _run_plain(module: nn.Module, a: Attributes, x: Tensor) -> Tensor:
    return module(x)


def _run_conv(module: Any, a: Attributes, x: Tensor) -> Tensor:
    low, high = windows.pads(a, x.shape[2:], list(module.kernel_size))
    return module(windows.padded(x, low, high))


def _run_conv_transpose(module: Any, a: Attributes, x: Tensor) -> Tensor:
    low, high, _ = windows.transposed_padding(a, x.shape[2:], list(module.kernel_size))
    return cropped(module(x), low, high)


def _run_embedding(module: Any, a: Attributes, index: Tensor) -> Tensor:
    return module(positive(index, module.weight.shape[0]))


def _run_recurrent(module: nn.Module, a: Attributes, *inputs: Any) -> Any:
    return module(*inputs)[: a.outputs]


def conv(source: Source, a: Attributes, node: ir.Node) -> Layer | None:
    found, bias = source.weight(_input(node, 1)), source.weight(_input(node, 2))
    if found is None or found[1].dim() not in _CONV or (_input(node, 2) is not None and bias is None):
        return None
    weight, group = found[1], a.get("group", 1)
    rank, padding = weight.dim() - 2, windows.fixed(a, weight.dim() - 2)
    if group < 1 or weight.shape[0] % group or 0 in weight.shape:
        return None
    module = _CONV[weight.dim()](
        weight.shape[1] * group, weight.shape[0], tuple(weight.shape[2:]), windows.spatial(a, "strides", rank),
        padding or 0, windows.spatial(a, "dilations", rank), group, bias is not None, device="meta",
    )  # fmt: skip
    call = _run_conv if padding is None else _run_plain
    return Layer(module, _held(module, weight=found, bias=bias), call)


def conv_transpose(source: Source, a: Attributes, node: ir.Node) -> Layer | None:
    found, bias = source.weight(_input(node, 1)), source.weight(_input(node, 2))
    if found is None or found[1].dim() not in _CONV or (_input(node, 2) is not None and bias is None):
        return None
    weight, group = found[1], a.get("group", 1)
    rank, plain = weight.dim() - 2, windows.fixed(a, weight.dim() - 2)
    strides, dilations, extra = (windows.spatial(a, n, rank, d) for n, d in
                                 (("strides", 1), ("dilations", 1), ("output_padding", 0)))  # fmt: skip
    odd = a.get("output_shape") is not None or a.get("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER")
    if odd or group < 1 or weight.shape[0] % group or any(e >= max(s, d) for e, s, d in zip(extra, strides, dilations)):
        return None
    module = _CONV_TRANSPOSE[weight.dim()](
        weight.shape[0], weight.shape[1] * group, tuple(weight.shape[2:]), strides, plain or 0, extra, group,
        bias is not None, dilations, device="meta",
    )  # fmt: skip
    call = _run_conv_transpose if plain is None else _run_plain
    return Layer(module, _held(module, weight=found, bias=bias), call)


def _linear(weight: tuple[str, Tensor, str], bias: tuple[str, Tensor, str] | None, add: ir.Node | None = None) -> Layer:
    rows, columns = weight[1].shape
    module = nn.Linear(columns, rows, bias is not None, device="meta")
    return Layer(module, _held(module, weight=weight, bias=bias), _run_plain, bias=add)


def gemm(source: Source, a: Attributes, node: ir.Node) -> Layer | None:
    weight = source.weight(_input(node, 1), SAME if a.get("transB", 0) else TRANSPOSED)
    bias = source.weight(_input(node, 2))
    plain = a.get("alpha", 1.0) == 1.0 and a.get("beta", 1.0) == 1.0 and not a.get("transA", 0)
    if weight is None or weight[1].dim() != 2 or not plain:
        return None
    if _input(node, 2) is not None and (bias is None or list(bias[1].shape) != [weight[1].shape[0]]):
        return None
    return _linear(weight, bias)


def matmul(source: Source, a: Attributes, node: ir.Node) -> Layer | None:
    weight = source.weight(_input(node, 1), TRANSPOSED)
    if weight is None or weight[1].dim() != 2:
        return None
    bias, add = _following_bias(source, node, weight[1].shape[0])
    return _linear(weight, bias, add)


def _following_bias(source: Source, node: ir.Node, rows: int) -> tuple[Any, ir.Node | None]:
    """The constant of the Add that is this product's only reader, if it is a bias."""
    product = node.outputs[0]
    readers = list(product.uses())
    if product.is_graph_output() or len(readers) != 1:
        return None, None
    add, slot = readers[0]
    if add.op_type != "Add" or add.domain not in ("", "ai.onnx") or add.graph is not node.graph or len(add.inputs) != 2:
        return None, None
    bias = source.weight(add.inputs[1 - slot])
    fits = bias is not None and list(bias[1].shape) == [rows]
    return (bias, add) if fits else (None, None)


def batch_norm(source: Source, a: Attributes, node: ir.Node) -> Layer | None:
    kinds = (SAME, SAME, BUFFER, BUFFER)
    found = [source.weight(_input(node, 1 + i), kind) for i, kind in enumerate(kinds)]
    kind = _BATCH_NORM.get(graph.rank(node.inputs[0]) or 0)
    if any(f is None or f[1].dim() != 1 for f in found) or kind is None:
        return None
    if a.get("training_mode", 0) or a.get("spatial", 1) == 0 or len([v for v in node.outputs if v.name]) > 1:
        return None
    momentum = 1.0 - a.get("momentum", 0.9)
    module = kind(found[0][1].shape[0], a.get("epsilon", 1e-5), momentum, device="meta")  # type: ignore[index]
    names = ("weight", "bias", "running_mean", "running_var")
    held = _held(module, **dict(zip(names, found)))
    module.num_batches_tracked = torch.tensor(0)
    return Layer(module, held, _run_plain)


def layer_norm(source: Source, a: Attributes, node: ir.Node) -> Layer | None:
    weight, bias = source.weight(_input(node, 1)), source.weight(_input(node, 2))
    if weight is None or a.outputs > 1 or (_input(node, 2) is not None and bias is None):
        return None
    axis, known = a.get("axis", -1), graph.rank(node.inputs[0])
    axis = axis if axis < 0 or known is None else axis - known
    if axis != -weight[1].dim() or (bias is not None and bias[1].shape != weight[1].shape):
        return None
    module = nn.LayerNorm(tuple(weight[1].shape), a.get("epsilon", 1e-5), bias=bias is not None, device="meta")
    return Layer(module, _held(module, weight=weight, bias=bias), _run_plain)


def embedding(source: Source, a: Attributes, node: ir.Node) -> Layer | None:
    weight = source.weight(_input(node, 0))
    if weight is None or weight[1].dim() != 2 or a.get("axis", 0) not in (0, -2) or _input(node, 1) is None:
        return None
    module = nn.Embedding(weight[1].shape[0], weight[1].shape[1], device="meta")
    return Layer(module, _held(module, weight=weight), _run_embedding, (1,))


def recurrent(source: Source, a: Attributes, node: ir.Node) -> Layer | None:
    found = [source.weight(_input(node, i), STACKED) for i in (1, 2, 3)]
    if found[0] is None or found[1] is None or (_input(node, 3) is not None and found[2] is None):
        return None
    if any(f is not None and f[1].dim() != (3 if i < 2 else 2) for i, f in enumerate(found)):
        return None
    if found[0][1].shape[0] not in (1, 2) or any(f[1].shape[0] != found[0][1].shape[0] for f in found if f):
        return None
    module = Recurrent(a, *(None if f is None else f[1] for f in found))  # type: ignore[arg-type]
    names = (("weight_ih_l0",), ("weight_hh_l0",), ("bias_ih_l0", "bias_hh_l0"))
    held = tuple(
        (tuple(n + end for end in module.ends for n in group), f[0], STACKED)
        for group, f in zip(names, found) if f is not None
    )  # fmt: skip
    return Layer(module, held, _run_recurrent, (0, 4, 5, 6, 7))


MAKERS: dict[str, Maker] = {
    "Conv": conv, "ConvTranspose": conv_transpose, "Gemm": gemm, "MatMul": matmul, "BatchNormalization": batch_norm,
    "LayerNormalization": layer_norm, "Gather": embedding, **dict.fromkeys(GATES, recurrent),
}  # fmt: skip
