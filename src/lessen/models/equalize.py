"""Cross-layer equalization: channels between two layers rescaled until both weights have the same ranges."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from .fold import _holder as holder
from .fold import exported
from .layer import Layer
from .trace import Trace

aten = torch.ops.aten
LEAST, MOST = 1e-4, 1e4  # of one channel's factor
# f(s x) = s f(x) for s > 0
_HOMOGENEOUS = {aten.relu.default, aten.relu_.default, aten.leaky_relu.default, aten.leaky_relu_.default}
# Clipped at a constant: homogeneous only as long as nothing reaches the upper end.
_CLIPPED = {aten.hardtanh.default, aten.hardtanh_.default, aten.relu6.default, aten.clamp.default}
# Rows that only move or are pooled by channel.
_BY_CHANNEL = {aten.max_pool2d.default, aten.max_pool1d.default, aten.avg_pool2d.default, aten.avg_pool1d.default,
               aten.adaptive_avg_pool2d.default, aten.dropout.default}  # fmt: skip
_LINEAR = {aten.linear.default, aten.addmm.default}
_CONV = {aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, aten.convolution.default,
         aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding}  # fmt: skip


@dataclass(frozen=True)
class Seam:
    """Two layers with nothing between them that minds a positive factor for each channel.

    Args:
        first, second: names of the weights.
        clipped: names of the ReLU6 modules between; "" stands for one that is no module.
    """

    first: str
    second: str
    clipped: tuple[str, ...] = ()


def balance(rows: Tensor, columns: Tensor) -> Tensor:
    """s [channels] with rows / s = columns * s = sqrt(rows * columns) (Nagel et al. 2019, eq. 11).

    Args:
        rows: range of each output channel of the first weight.
        columns: range of each input channel of the second one. A channel that is zero in either keeps s = 1.
    """
    alive = (rows > 0) & (columns > 0)
    s = torch.where(alive, (rows.double() / columns.double().clamp_min(1e-30)).sqrt(), torch.ones(()).double())
    return s.clamp(LEAST, MOST)


def seams(traced: Trace, module: nn.Module) -> tuple[Seam, ...]:
    """The pairs of layers of a traced network that can be equalized, in order of execution."""
    if traced.graph is None:
        return ()
    layers = {exported(x.name): x for x in traced.layers if x.details.get("uses", 1) == 1}
    found = []
    for node in traced.graph.nodes:
        first = _layer(node, layers)
        if first is None:
            continue
        passed = _through(node)
        second = None if passed is None else _layer(passed[0], layers)
        if passed is None or second is None or not _meets(first, second, passed[0]):
            continue
        if passed[2] and not _modules(module, passed[2]):
            continue
        found.append(Seam(first.name, second.name, _modules(module, passed[2])))
    return tuple(found)


def _layer(node: fx.Node, layers: Mapping[str, Layer]) -> Layer | None:
    if node.op != "call_function" or node.target not in _LINEAR | _CONV:
        return None
    held = [layers[holder(a)] for a in node.args if holder(a) in layers]
    return held[0] if held else None


def _through(node: fx.Node) -> tuple[fx.Node, fx.Node, list[fx.Node]] | None:
    """From a layer over what minds no factors to its only reader: (reader, what it reads, the clips between)."""
    clips: list[fx.Node] = []
    while len(node.users) == 1:
        reader = next(iter(node.users))
        if reader.op != "call_function":
            return None
        if reader.target in _CLIPPED:
            clips.append(reader)
        elif reader.target not in _HOMOGENEOUS | _BY_CHANNEL:
            reads = reader.args[1] if reader.target is aten.addmm.default else reader.args[0]
            return (reader, node, clips) if reads is node else None
        node = reader
    return None


def _meets(first: Layer, second: Layer, reader: fx.Node) -> bool:
    """Channels of the one are those of the other: no flattening of pixels into them, and nothing like grouping."""
    if first.kind not in ("linear", "conv") or second.kind != first.kind or (first.out_axis, second.out_axis) != (0, 0):
        return False
    channels = first.shape[0]
    depthwise = second.groups == channels and second.shape[0] == channels
    whole = second.groups == 1 and second.weight.shape[1] == channels
    return depthwise or whole


def _modules(module: nn.Module, clips: Iterable[fx.Node]) -> tuple[str, ...]:
    """The ReLU6 modules that these operators came from; () if one of them is no module of its own."""
    paths = []
    for clip in clips:
        stack = clip.meta.get("nn_module_stack") or {}
        path = next((str(v[0]) for v in reversed(list(stack.values()))), "")
        path = path.removeprefix("L['self'].").removeprefix("L__self___")
        try:
            found = module.get_submodule(path) if path else None
        except AttributeError:
            found = None
        if not isinstance(found, nn.Hardtanh) or found.min_val != 0:
            return ()
        paths.append(path)
    return tuple(paths) if len(set(paths)) == len(paths) else ()


class ChannelClip(nn.Module):
    """min(relu(x), most_c): a ReLU6 whose channels were rescaled.

    Args:
        most: the upper end of each channel, [channels].
        rank: dimensions of what it gets; channels are the second one, or the last of two.
    """

    most: Tensor

    def __init__(self, most: Tensor, rank: int) -> None:
        super().__init__()
        self.register_buffer("most", most.reshape(1, -1, *[1] * (rank - 2)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.minimum(torch.relu(x), self.most)


@torch.no_grad()
def equalized(
    module: nn.Module, traced: Trace, lowest: Mapping[str, Tensor] | None = None, sweeps: int = 20
) -> tuple[nn.Module, tuple[Seam, ...]]:
    """A copy whose neighbouring layers have weights of the same ranges, channel by channel; it computes the same.

    W1' = W1 / s, b1' = b1 / s, W2' = W2 s with `balance`, over all seams in turn until nothing moves
    (Nagel et al. 2019, sec. 4.1). A ReLU6 between becomes a `ChannelClip` at 6 / s, so it stays exact. With `lowest`,
    high biases are absorbed afterwards (sec. 4.1.3): what a channel never falls below moves from b1 into b2.

    Args:
        module: batch norms folded, in evaluation mode; not changed.
        traced: `trace(module, inputs)`.
        lowest: name of a layer -> for each output, what it never falls below (of the data, or beta - 3 gamma of the
            batch norm that was folded into it).
        sweeps: most passes over all seams.

    Returns:
        the copy, and the seams that were equalized; without any, the module itself.
    """
    found = seams(traced, module)
    if not found:
        return module, ()
    layers = {x.name: x for x in traced.layers}
    made = copy.deepcopy(module)
    total = {s: torch.ones(layers[s.first].shape[0], dtype=torch.float64) for s in found}
    for _ in range(sweeps):
        moved = [_equalize(made, layers, seam, total) for seam in found]
        if max(moved) < 1e-3:
            break
    for seam in found:
        for path in seam.clipped:
            _reclip(made, path, total[seam], layers[seam.first])
        if lowest is not None and seam.first in lowest and not seam.clipped:
            _absorb(made, layers, seam, lowest[seam.first].double() / total[seam])
    return made, found


def _equalize(module: nn.Module, layers: Mapping[str, Layer], seam: Seam, total: dict[Seam, Tensor]) -> float:
    first, second = layers[seam.first], layers[seam.second]
    w1, w2 = (first.to_matrix(_weight(module, first)), _by_input(_weight(module, second), second))
    s = balance(w1.abs().amax(1), w2.abs().flatten(1).amax(1))
    _put(module, first, first.from_matrix((w1.double() / s[:, None]).float()))
    bias = _bias(module, first)
    if bias is not None:
        bias.copy_(bias.double() / s)
    scale = s.reshape([-1 if i == _input_axis(second) else 1 for i in range(second.weight.ndim)])
    _put(module, second, _weight(module, second).double() * scale)
    total[seam] = total[seam] * s
    return float(s.log().abs().max())


def _absorb(module: nn.Module, layers: Mapping[str, Layer], seam: Seam, lowest: Tensor) -> None:
    """b1' = b1 - c, b2' = b2 + W2 c with c = max(0, lowest): the ReLU between never notices."""
    first, second = layers[seam.first], layers[seam.second]
    bias1, bias2 = _bias(module, first), _bias(module, second)
    if bias1 is None or bias2 is None or second.details.get("padding", 0) not in (0, [0], [0, 0], (0, 0)):
        return  # at a padded edge there is no c to give back
    c = lowest.clamp_min(0)
    weight = _by_input(_weight(module, second), second).double()
    bias1.copy_(bias1.double() - c)
    given = (weight.flatten(2).sum(2) * c[:, None]).sum(0) if second.groups == 1 else weight.flatten(1).sum(1) * c
    bias2.copy_(bias2.double() + given)


def _input_axis(layer: Layer) -> int:
    return 1 if layer.groups == 1 else 0  # a depthwise kernel's rows are its inputs


def _by_input(weight: Tensor, layer: Layer) -> Tensor:
    """[inputs, outputs, kernel]; of a depthwise weight [channels, 1, kernel]."""
    moved = weight.movedim(_input_axis(layer), 0)
    return moved.reshape(*moved.shape[:2], -1)


def _weight(module: nn.Module, layer: Layer) -> Tensor:
    return module.get_parameter(layer.name).detach()


def _bias(module: nn.Module, layer: Layer) -> Tensor | None:
    bias = getattr(module.get_submodule(layer.module), "bias", None)
    return bias if isinstance(bias, Tensor) else None


def _put(module: nn.Module, layer: Layer, weight: Tensor) -> None:
    module.get_parameter(layer.name).copy_(weight)


def _reclip(module: nn.Module, path: str, s: Tensor, layer: Layer) -> None:
    parent, _, child = path.rpartition(".")
    owner: Any = module.get_submodule(path)
    rank = 2 if layer.kind == "linear" else layer.weight.ndim
    setattr(module.get_submodule(parent), child, ChannelClip((owner.max_val / s).float(), rank))
