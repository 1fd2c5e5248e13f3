"""Batch-norm folding: a convolution or linear layer swallows the batch norm behind it."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, fx, nn

from ..memory import twin
from .layer import Layer
from .trace import Trace, trace

aten = torch.ops.aten
_NORMS = (aten.batch_norm.default, aten._native_batch_norm_legit_no_training.default, aten.cudnn_batch_norm.default)
_USERS = (aten.linear.default, aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, aten.convolution.default,
          aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding, aten.addmm.default,
          aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)  # fmt: skip


def fold_batchnorm(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[nn.Module, tuple[str, ...]]:
    """A copy of the network in which every batch norm that directly follows a layer is folded into it.

    y = gamma * (W x + b - mu) / sqrt(var + eps) + beta  =  W' x + b'   (Jacob et al. 2018, sec. 3.2)

    Returns the copy and the paths of the batch norms that are gone (each an `nn.Identity` now). The copy is run and
    compared with the original before it is returned; should they differ, the original comes back, nothing folded.
    """
    return fold_and_trace(module, inputs)[:2]


def fold_and_trace(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[nn.Module, tuple[str, ...], Trace]:
    """`fold_batchnorm`, and the trace of what comes out; the network is exported once for both."""
    traced = trace(module, inputs)
    found = _pairs(traced, module)
    if not found:
        return module, (), traced
    folded = twin(module)
    for layer, norm in found:
        _fold(folded, layer, norm)
    with torch.no_grad():
        before, after = _flat(module(*inputs)), _flat(folded(*inputs))
    scale = before.abs().max().clamp_min(1e-12)
    if not bool(torch.isfinite(after).all()) or float((before - after).abs().max() / scale) > 1e-3:
        return module, (), traced
    norms = tuple(norm for _, norm in found)
    return folded, norms, _without(traced, folded, norms)


def _without(traced: Trace, folded: nn.Module, norms: tuple[str, ...]) -> Trace:
    """The trace of a network whose batch norms are folded: their nodes are gone, the layers hold the new weights."""
    gone, graph = set(map(exported, norms)), traced.graph
    assert graph is not None
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in _NORMS and _norm_of(node) in gone:
            for output in [node] if node.target == aten.batch_norm.default else list(node.users):  # or (output, ...)
                output.replace_all_uses_with(node.args[0])
                graph.erase_node(output)
            if node.target != aten.batch_norm.default:
                graph.erase_node(node)
    return traced.of(folded)


def _flat(output: object) -> Tensor:
    if isinstance(output, Tensor):
        return output.detach().float().flatten()
    values = list(output.values()) if isinstance(output, dict) else list(output)  # type: ignore[call-overload]
    return torch.cat([_flat(o) for o in values if o is not None]) if values else torch.zeros(0)


def _pairs(traced: Trace, module: nn.Module) -> list[tuple[Layer, str]]:
    """(layer, path of the batch norm behind it) where nobody else reads what lies between."""
    if traced.graph is None:
        return []
    layers = {exported(layer.name): layer for layer in traced.layers if layer.details.get("uses", 1) == 1}
    norms = {exported(p): p for p, m in module.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    pairs: list[tuple[Layer, str]] = []
    for node in traced.graph.nodes:
        if node.op != "call_function" or node.target not in _NORMS:
            continue
        before = node.args[0]
        layer = _producer(before, layers)
        path = norms.get(_norm_of(node))
        if layer is not None and path is not None and len(before.users) == 1:
            pairs.append((layer, path))
    once = [p for _, p in pairs]
    return [(layer, p) for layer, p in pairs if once.count(p) == 1]


def exported(path: str) -> str:
    """What torch.export makes of a name: small letters, figures and underscores."""
    return re.sub("[^a-z0-9]", "_", path.lower())


def _holder(node: object) -> str:
    """Name of a parameter or buffer placeholder without the prefix that torch.export puts before it."""
    name = node.name if isinstance(node, fx.Node) and node.op == "placeholder" else ""
    return name.removeprefix("p_").removeprefix("b_")


def _norm_of(node: fx.Node) -> str:
    """The path of a batch norm's module, dots as underscores."""
    return _holder(node.args[4]).removesuffix("_running_var")


def _producer(node: fx.Node, layers: dict[str, Layer]) -> Layer | None:
    if node.op != "call_function" or node.target not in _USERS:
        return None
    weights = [layers[_holder(a)] for a in node.args if _holder(a) in layers]
    return weights[0] if weights else None


@torch.no_grad()
def _fold(module: nn.Module, layer: Layer, path: str) -> None:
    norm: Any = module.get_submodule(path)
    owner: Any = module.get_submodule(layer.module)
    weight: Tensor = getattr(owner, layer.name.rpartition(".")[2])
    factor = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.weight is not None:
        factor = factor * norm.weight.double()
    shift = torch.zeros_like(factor) if norm.bias is None else norm.bias.double()
    bias = owner.bias.double() if isinstance(getattr(owner, "bias", None), Tensor) else torch.zeros_like(factor)
    matrix = layer.to_matrix(weight).double() * factor[:, None]
    weight.copy_(layer.from_matrix(matrix))
    owner.bias = nn.Parameter(((bias - norm.running_mean.double()) * factor + shift).to(weight.dtype))
    parent, _, child = path.rpartition(".")
    setattr(module.get_submodule(parent), child, nn.Identity())
