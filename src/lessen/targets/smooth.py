"""Moving outliers of activations into the weights before both are rounded (SmoothQuant, Xiao et al. 2023)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from ..memory import kept
from ..models.layer import Layer
from .absorb import absorb
from .graph import Array, copied, is_constant
from .locate import Site, locate_all

LINEAR = {("MatMul", 1), ("Gemm", 1)}
AUDIBLE, TINY = 1e-2, 1e-5  # of the loudest channel's peak, should more than half have been silent; of nothing at all


@dataclass(frozen=True, eq=False)
class Smoothed:
    """A network that computes the same, with tamer inputs to its linear layers.

    Args:
        model: the graph; each smoothed layer's input is divided by its scale there.
        layers: all layers; the smoothed ones hold weight * scale. Their codings must be made from these.
        scales: by layer name, float32 [columns]. H of a smoothed layer becomes H / (s sT), a mean m becomes m / s.
        ranges: by layer name, lowest and highest value of the smoothed input.
        gains: by name of an initializer that holds something else than its parameter, what to multiply that by.
    """

    model: ir.Model
    layers: tuple[Layer, ...]
    scales: dict[str, Tensor]
    ranges: dict[str, tuple[float, float]]
    gains: dict[str, Array]


def smoothed(
    model: ir.Model, layers: tuple[Layer, ...], extremes: Mapping[str, tuple[Tensor, Tensor]], strength: float = 0.7
) -> Smoothed:
    """Divides each input channel by s_c = max|x_c|^strength / max|w_c|^(1 - strength), multiplies the weights by it.

    Layers that read the same tensor share one s. Only linear layers, not convolutions (their inputs come out of
    a ReLU or a batch norm and have no such outliers). A channel quieter than the median counts as loud as that: on
    samples that the scales were not made from, Whisper's linear layers are 1.3 dB more exact for it, MiniLM's 0.3.

    Args:
        extremes: layer name -> lowest and highest value of each column of its input; layers without stay as they are.
    """
    model = copied(model)
    sites = {n: s for n, s in locate_all(model, layers).items() if _linear(s)}
    scales: dict[str, Tensor] = {}
    ranges: dict[str, tuple[float, float]] = {}
    gains: dict[str, Array] = {}
    for members in _groups(sites):
        if members[0].layer.name not in extremes:
            continue
        low, high = (t.numpy() for t in extremes[members[0].layer.name])
        scale = _scale(np.maximum(-low, high), members, strength)
        gains |= absorb(model.graph, members[0].uses[0][0].inputs[0], members, 1 / scale)
        held = torch.from_numpy(scale)
        scales |= {s.layer.name: held for s in members}
        ranges |= {s.layer.name: (float((low / scale).min()), float((high / scale).max())) for s in members}
    new = tuple(x.with_matrix(kept(x.matrix * scales[x.name])) if x.name in scales else x for x in layers)
    for layer in new:
        if layer.name in scales:
            gains |= _rescaled(sites[layer.name], layer, scales[layer.name])
    return Smoothed(model, new, scales, ranges, gains)


def _groups(sites: dict[str, Site]) -> list[list[Site]]:
    """Layers that read the same tensor; only weights that are read once, and by one layer."""
    groups: dict[str, list[Site]] = {}
    held = Counter(str(s.value.name) for s in sites.values())
    for site in sites.values():
        x = site.uses[0][0].inputs[0]
        if len(site.uses) == 1 and held[str(site.value.name)] == 1 and x is not None and not is_constant(x):
            groups.setdefault(str(x.name), []).append(site)
    return list(groups.values())


def _rescaled(site: Site, layer: Layer, scale: Tensor) -> dict[str, Array]:
    """The weight times its scale goes into the graph; returns the factor in the initializer's layout."""
    name = str(site.value.name)
    site.value.const_value = ir.tensor(layer.weight.permute(site.permuted).numpy(), name=name)  # the layer's own memory
    row = Layer(name, "linear", layer.weight[:1] if layer.out_axis == 0 else layer.weight[:, :1], layer.out_axis)
    return {name: row.from_matrix(scale[None]).permute(site.permuted).numpy()}  # the same for all outputs


def _linear(site: Site) -> bool:
    turned = any(node.attributes.get_int("transA", 0) for node, _ in site.uses)
    outside = all(node.graph is site.value.graph for node, _ in site.uses)  # not in a branch: nothing is put there
    whole = site.layer.kind == "linear" and site.gain is None and not turned and outside
    return whole and bool(site.uses) and all((n.op_type, i) in LINEAR for n, i in site.uses)


def _scale(peak: Array, members: Sequence[Site], strength: float) -> Array:
    """By channel; one that was quieter than most is taken for as loud as most.

    Its peak on other data is anything up to that: made a thousand times larger because calibration left it silent,
    it sets the range of the whole tensor the first time it speaks (Whisper's encoder: 10,000 times the range).
    """
    weight = np.max([s.layer.matrix.abs().amax(0).numpy() for s in members], axis=0)
    floor = max(float(np.median(peak)), AUDIBLE * float(peak.max()), TINY)
    scale = np.maximum(peak, floor) ** strength / np.maximum(weight, TINY) ** (1 - strength)
    scale /= np.exp(np.log(scale).mean())  # the overall level is free: keep the weights where they were
    return np.clip(scale, 1e-3, 1e3).astype(np.float32)
