"""Tracing: the layers of a network, read from its ATen graph; by module types where that can't be had."""

from __future__ import annotations

import math
import operator
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from .layer import Layer
from .quiet import quiet

aten = torch.ops.aten

# Operators that only turn or rename a weight on its way to the operator that uses it.
_PASS = {aten.t.default, aten.transpose.int, aten.detach.default, aten.alias.default, aten.contiguous.default,
         aten.numpy_T.default, aten.clone.default}  # fmt: skip
_LINEAR = {aten.linear.default: 1, aten.addmm.default: 2, aten.mm.default: 1, aten.matmul.default: 1}
_CONV = {aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, aten.convolution.default,
         aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding}  # fmt: skip
_CONV_TRANSPOSE = {aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input}
_RECURRENT = {aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input,
              aten.lstm_cell.default, aten.gru_cell.default, aten.rnn_tanh_cell.default}  # fmt: skip

# Operators that put a weight together with others or take it apart; values stay as they are.
_ASSEMBLE = {aten.cat.default, aten.stack.default, aten.select.int, aten.slice.Tensor, aten.chunk.default,
             aten.split.Tensor, aten.split_with_sizes.default, aten.unsqueeze.default, aten.squeeze.dim,
             aten.unbind.int, operator.getitem}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Trace:
    """What is known of a network's inside.

    Args:
        layers: the weights that techniques can work on, in the order of execution.
        left: (name, reason) of parameters with two or more dimensions that none can work on.
        share: share of all parameters that lie in `layers`.
        graph: the ATen graph module; None when the network could not be exported.
        why: why it could not be.
    """

    layers: tuple[Layer, ...]
    left: tuple[tuple[str, str], ...]
    share: float
    graph: fx.Graph | None
    why: str = ""

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the layers for one sample."""
        return sum(layer.macs for layer in self.layers)

    def of(self, module: nn.Module) -> Trace:
        """The trace of a network that has the same graph and other weights: what `left` and `graph` say stays true."""
        weights = dict(module.named_parameters(remove_duplicate=False))
        layers = tuple(replace(layer, weight=weights[layer.name].detach()) for layer in self.layers)
        covered = {id(weights[layer.name]): weights[layer.name].numel() for layer in layers}
        share = sum(covered.values()) / max(sum(p.numel() for p in module.parameters()), 1)
        return replace(self, layers=layers, share=share)


def trace(module: nn.Module, inputs: tuple[Tensor, ...]) -> Trace:
    """Finds the layers by `torch.export`; when the network can't be exported, by its modules' types."""
    try:
        with quiet():  # what the exporter says does not concern who reads its graph
            program = torch.export.export(module, inputs, strict=False)
    except Exception as error:  # whatever stops the exporter, the network can still be worked on by module
        why = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        return _finish(module, _layers_by_type(module, inputs), None, f"torch.export: {why}")
    names = dict(program.graph_signature.inputs_to_parameters)
    batch = inputs[0].shape[0] if inputs and inputs[0].ndim else 1
    idle = {names[node.name] for node in program.graph.nodes if node.name in names and not node.users}
    return _finish(module, _layers_of_graph(module, program.graph, names, batch), program.graph, "", idle)


def _finish(
    module: nn.Module, layers: list[Layer], graph: fx.Graph | None, why: str, idle: Collection[str] = ()
) -> Trace:
    parameters = {id(p): (n, p) for n, p in module.named_parameters()}
    own = dict(module.named_parameters(remove_duplicate=False))
    covered = {id(own[layer.name]) for layer in layers}
    left = tuple(
        (n, why or ("the samples never get there" if n in idle else "no operator that a technique knows uses it"))
        for i, (n, p) in parameters.items()
        if i not in covered and p.ndim > 1
    )
    total = sum(p.numel() for _, p in parameters.values())
    return Trace(tuple(layers), left, sum(parameters[i][1].numel() for i in covered) / max(total, 1), graph, why)


def _layers_of_graph(module: nn.Module, graph: fx.Graph, names: dict[str, str], batch: int) -> list[Layer]:
    parameters = dict(module.named_parameters(remove_duplicate=False))
    holders = {node.name: names[node.name] for node in graph.nodes if node.op == "placeholder" and node.name in names}
    found: dict[int, Layer] = {}
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        for source, turned in _weight_arguments(node):
            if source.name not in holders:
                continue
            name = holders[source.name]
            weight = parameters[name]
            layer = _layer(name, weight, node, turned, batch)
            if layer is not None:
                seen = found.get(id(weight))
                found[id(weight)] = layer if seen is None else _merged(seen, layer)
    for layer in _assembled(parameters, holders, graph, batch):
        found.setdefault(id(parameters[layer.name]), layer)
    return list(found.values())


def _assembled(parameters: dict[str, Any], holders: dict[str, str], graph: fx.Graph, batch: int) -> Iterator[Layer]:
    """Weights `weight_ih..., weight_hh...` that are put together (stacked, gates in another order) before use."""
    for node in graph.nodes:
        name = holders.get(node.name, "")
        if not name.rpartition(".")[2].startswith(("weight_ih", "weight_hh")) or parameters[name].ndim != 2:
            continue
        weight = parameters[name]
        users = _users(node)
        if users:
            macs = sum(_assembled_macs(weight, user, batch) for user in users)
            yield Layer(name, "recurrent", weight.detach(), macs=macs)


def _users(node: fx.Node) -> list[fx.Node]:
    """The products and recurrent kernels that a weight reaches through operators that only move values."""
    found: dict[fx.Node, None] = {}
    seen, waiting = {node}, [node]
    while waiting:
        for user in waiting.pop().users:
            if user.target in _RECURRENT or user.target in _LINEAR:
                found[user] = None
            elif user not in seen and (user.target in _PASS or user.target in _ASSEMBLE):
                waiting.append(user)
            seen.add(user)
    return list(found)


def _assembled_macs(weight: Tensor, user: fx.Node, batch: int) -> int:
    if user.target in _RECURRENT:
        return _recurrent_macs(weight, user, batch)
    return _size(user) * weight.shape[1] // batch


def _merged(first: Layer, again: Layer) -> Layer:
    """A weight used twice: MACs add up; a tied embedding counts as the linear layer it also is."""
    from dataclasses import replace

    kept = again if first.kind == "embedding" else first
    return replace(
        kept, macs=first.macs + again.macs, details={**kept.details, "uses": first.details.get("uses", 1) + 1}
    )


def _weight_arguments(node: fx.Node) -> list[tuple[fx.Node, bool]]:
    """(source node, seen transposed) of each argument of `node` that may be a weight."""
    target = node.target
    if target in _LINEAR:
        return [_origin(a) for a in (node.args[_LINEAR[target]],) if isinstance(a, fx.Node)]
    if target in _CONV or target in _CONV_TRANSPOSE:
        return [_origin(node.args[1])]  # type: ignore[arg-type]
    if target is aten.embedding.default:
        return [_origin(node.args[0])]  # type: ignore[arg-type]
    if target in _RECURRENT:
        flat: list[Any] = [a for arg in node.args for a in (arg if isinstance(arg, (list, tuple)) else [arg])]
        return [_origin(a) for a in flat if isinstance(a, fx.Node)]
    return []


def _origin(node: fx.Node) -> tuple[fx.Node, bool]:
    turned = False
    while node.op == "call_function" and node.target in _PASS:
        turned ^= node.target in (aten.t.default, aten.transpose.int, aten.numpy_T.default)
        node = node.args[0]  # type: ignore[assignment]
    return node, turned


def _size(node: Any) -> int:
    value = node.meta.get("val")
    value = value[0] if isinstance(value, (tuple, list)) else value
    return math.prod(int(s) for s in value.shape) if isinstance(value, Tensor) else 0


def _layer(name: str, weight: Tensor, node: fx.Node, turned: bool, batch: int) -> Layer | None:
    target, weight = node.target, weight.detach()
    if weight.ndim < 2 or not weight.is_floating_point():
        return None
    if target in _LINEAR:
        out_axis = 0 if target is aten.linear.default or turned else 1
        if weight.ndim != 2:
            return None
        return Layer(name, "linear", weight, out_axis, macs=_size(node) * weight.shape[1 - out_axis] // batch)
    if target in _CONV or target in _CONV_TRANSPOSE:
        return _conv_layer(name, weight, node, batch)
    if target is aten.embedding.default:
        return Layer(name, "embedding", weight)
    return Layer(name, "recurrent", weight, macs=_recurrent_macs(weight, node, batch))


def _conv_layer(name: str, weight: Tensor, node: fx.Node, batch: int) -> Layer:
    arguments = _by_name(node)
    groups = int(arguments.get("groups", 1))
    transposed = node.target in _CONV_TRANSPOSE or bool(arguments.get("transposed", False))
    details: dict[str, Any] = {k: arguments[k] for k in ("stride", "padding", "dilation") if k in arguments}
    if transposed:
        positions = _size(node.args[0]) // (weight.shape[0] * batch)
        return Layer(name, "conv_transpose", weight, 1, groups, positions * weight.numel(), details=details)
    macs = _size(node) // batch * (weight.numel() // weight.shape[0])
    return Layer(name, "conv", weight, 0, groups, macs, details=details)


def _by_name(node: fx.Node) -> dict[str, Any]:
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    named = {a.name: v for a, v in zip(schema, node.args, strict=False)}
    return {**{a.name: a.default_value for a in schema if a.has_default_value()}, **named, **node.kwargs}


def _recurrent_macs(weight: Tensor, node: fx.Node, batch: int) -> int:
    steps = 1
    value = node.args[0].meta.get("val") if isinstance(node.args[0], fx.Node) else None
    if isinstance(value, Tensor) and value.ndim == 3:
        steps = int(value.shape[0] * value.shape[1]) // batch
    return steps * weight.numel()


_TYPES: dict[type, tuple[str, int]] = {
    nn.Linear: ("linear", 0), nn.Conv1d: ("conv", 0), nn.Conv2d: ("conv", 0), nn.Conv3d: ("conv", 0),
    nn.ConvTranspose1d: ("conv_transpose", 1), nn.ConvTranspose2d: ("conv_transpose", 1),
    nn.ConvTranspose3d: ("conv_transpose", 1), nn.Embedding: ("embedding", 0),
}  # fmt: skip


def _layers_by_type(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[Layer]:
    macs = _macs_by_hooks(module, inputs)
    layers: dict[int, Layer] = {}
    for path, m in module.named_modules():
        kind, axis = next((v for t, v in _TYPES.items() if isinstance(m, t)), ("", 0))
        if kind:
            details = {k: getattr(m, k) for k in ("stride", "padding", "dilation") if hasattr(m, k)}
            layer = Layer(f"{path}.weight".lstrip("."), kind, m.weight.detach(), axis, getattr(m, "groups", 1),
                          macs.get(path, 0), details=details)  # fmt: skip
            layers.setdefault(id(m.weight), layer)
        elif isinstance(m, (nn.RNNBase, nn.RNNCellBase)):
            for n, p in m.named_parameters(recurse=False):
                if p.ndim == 2:
                    layers[id(p)] = Layer(f"{path}.{n}".lstrip("."), "recurrent", p.detach(), macs=macs.get(path, 0))
    return list(layers.values())


def _macs_by_hooks(module: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, int]:
    counts: dict[str, int] = {}
    batch = inputs[0].shape[0] if inputs and inputs[0].ndim else 1

    def count(path: str) -> Any:
        def hook(m: nn.Module, _: Any, output: Any) -> None:
            out = output[0] if isinstance(output, tuple) else output
            weight = getattr(m, "weight", None)
            if isinstance(out, Tensor) and isinstance(weight, Tensor) and not isinstance(m, nn.Embedding):
                counts[path] = counts.get(path, 0) + out.numel() // batch * weight[0].numel()

        return hook

    counted = [(p, m) for p, m in module.named_modules() if issubclass(type(m), tuple(_TYPES))]
    handles = [m.register_forward_hook(count(p)) for p, m in counted]
    try:
        with torch.no_grad():
            module(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return counts
