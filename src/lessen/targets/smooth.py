"""Moving outliers of activations into the weights before both are rounded (SmoothQuant, Xiao et al. 2023)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from ..models.layer import Layer
from .calibrate import observed
from .graph import Array, constant, copied
from .locate import Site, locate_all

LINEAR = {("MatMul", 1), ("Gemm", 1)}


@dataclass(frozen=True, eq=False)
class Smoothed:
    """A network that computes the same, with tamer inputs to its linear layers.

    Args:
        model: the graph; each smoothed layer's input is divided by its scale there.
        layers: all layers; the smoothed ones hold weight * scale. Their codings must be made from these.
        scales: by layer name, float32 [columns]. H of a smoothed layer becomes H / (s sT), a mean m becomes m / s.
    """

    model: ir.Model
    layers: tuple[Layer, ...]
    scales: dict[str, Tensor]


def smoothed(
    model: ir.Model, layers: tuple[Layer, ...], batches: Iterable[Sequence[Any]], strength: float = 0.7
) -> Smoothed:
    """Divides each input channel by s_c = max|x_c|^strength / max|w_c|^(1 - strength), multiplies the weights by it.

    Layers that read the same tensor share one s. Only linear layers, not convolutions (their inputs come out of
    a ReLU or a batch norm and have no such outliers).
    """
    model = copied(model)
    sites = {n: s for n, s in locate_all(model, layers).items() if _linear(s)}
    groups: dict[str, list[Site]] = {}
    for site in sites.values():
        for name in {node.inputs[0].name for node, _ in site.uses if node.inputs[0] is not None}:
            groups.setdefault(str(name), []).append(site)
    groups = {n: members for n, members in groups.items() if all(len(s.uses) == 1 for s in members)}
    peaks = _peaks(model, tuple(groups), batches) if groups else {}
    scales = {}
    for name, members in groups.items():
        scale = _scale(peaks[name], members, strength)
        _divide(model.graph, name, members, scale)
        scales.update({s.layer.name: torch.from_numpy(scale) for s in members})
    new = tuple(x.with_matrix(x.matrix * scales[x.name]) if x.name in scales else x for x in layers)
    for layer in new:
        if layer.name in scales:
            site = sites[layer.name]
            site.value.const_value = ir.tensor(site.tensor(layer.matrix).numpy(), name=site.value.name)
    return Smoothed(model, new, scales)


def _linear(site: Site) -> bool:
    return bool(site.uses) and all((n.op_type, i) in LINEAR for n, i in site.uses) and site.gain is None


def _peaks(model: ir.Model, tensors: Sequence[str], batches: Iterable[Sequence[Any]]) -> dict[str, Array]:
    """Largest magnitude of every channel (last axis)."""
    found: dict[str, Array] = {}
    for seen in observed(model, tensors, batches):
        for name, x in seen.items():
            peak = np.abs(x.reshape(-1, x.shape[-1])).max(0)
            found[name] = np.maximum(found[name], peak) if name in found else peak
    return found


def _scale(peak: Array, members: Sequence[Site], strength: float) -> Array:
    weight = np.max([s.layer.matrix.abs().amax(0).numpy() for s in members], axis=0)
    scale = np.maximum(peak, 1e-5) ** strength / np.maximum(weight, 1e-5) ** (1 - strength)
    scale /= np.exp(np.log(scale).mean())  # the overall level is free: keep the weights where they were
    return np.clip(scale, 1e-3, 1e3).astype(np.float32)


def _divide(graph: ir.Graph, name: str, members: Sequence[Site], scale: Array) -> None:
    x = members[0].uses[0][0].inputs[0]
    assert x is not None
    node = ir.node("Mul", [x, constant(graph, f"{name}_smoothing", 1 / scale)], name=f"{name}_smooth")
    node.outputs[0].name = f"{name}_smoothed"
    node.outputs[0].type, node.outputs[0].shape = x.type, x.shape
    producer = x.producer()
    if producer is None:
        graph.insert_before(graph[0], node)
    else:
        graph.insert_after(producer, node)
    for site in members:
        for user, _ in site.uses:
            user.replace_input_with(0, node.outputs[0])
