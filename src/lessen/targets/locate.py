"""Where a layer's weight lives in an ONNX graph."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from ..errors import LessenError
from ..memory import stretches
from ..models.layer import Layer

PERMUTED = "lessen.permuted"  # metadata of an initializer that is held transposed: "1,0"
PARAMETER = "lessen.parameter"  # metadata of an initializer whose own name is not the parameter's

# (operator, index of the weight among its inputs) that can run in integers
INTEGER_OPERATORS = {("Conv", 1), ("ConvTranspose", 1), ("MatMul", 1), ("Gemm", 1)}


@dataclass(frozen=True, eq=False)
class Site:
    """A layer's place in the graph.

    Args:
        layer: the layer.
        value: the initializer that holds its weight.
        uses: (node, input index) of all that read it.
        permuted: the initializer is `weight.permute(permuted)`.
        gain: float32 [rows]; the initializer's rows are the layer's times this (a batch norm was folded into them).
    """

    layer: Layer
    value: ir.Value
    uses: tuple[tuple[ir.Node, int], ...]
    permuted: tuple[int, ...]
    gain: Tensor | None = None

    @property
    def axis(self) -> int:
        """The initializer's axis that counts output channels."""
        return self.permuted.index(self.layer.out_axis)

    @property
    def operators(self) -> tuple[str, ...]:
        return tuple(node.op_type for node, _ in self.uses)

    def tensor(self, matrix: Tensor) -> Tensor:
        """A matrix of the layer, turned into the initializer's layout."""
        weight = self.layer.weight
        like = Layer(self.layer.name, self.layer.kind, weight.to(matrix.dtype), self.layer.out_axis, self.layer.groups)
        return like.from_matrix(matrix).permute(self.permuted).contiguous()


def locate(model: ir.Model, layer: Layer) -> Site | None:
    """The layer's initializer: by its name, else by its values (transposed or scaled by rows too); None if absent."""
    noted = (v for v in model.graph.initializers.values() if v.metadata_props.get(PARAMETER) == layer.name)
    named = next(noted, model.graph.initializers.get(layer.name))
    if named is not None:
        site = _match(named, layer)
        if site is not None:
            return site
    if layer.kind == "recurrent":
        return None
    for value in model.graph.initializers.values():
        if value.const_value is None or value.const_value.size != layer.weight.numel() or value is named:
            continue
        site = _match(value, layer, scaled=False)
        if site is not None:
            return site
    return None


def locate_all(model: ir.Model, layers: tuple[Layer, ...]) -> dict[str, Site]:
    """The sites of those layers that are in the graph, by layer name."""
    found = ((layer.name, locate(model, layer)) for layer in layers)
    return {name: site for name, site in found if site is not None}


def _match(value: ir.Value, layer: Layer, scaled: bool = True) -> Site | None:
    array = value.const_value.numpy()  # type: ignore[union-attr]
    uses = tuple((use.node, use.idx) for use in value.uses())
    for permuted in _permutations(value, layer):
        if array.shape != tuple(layer.weight.permute(permuted).shape):
            continue
        inverse = [permuted.index(i) for i in range(len(permuted))]
        if _same(array.transpose(inverse), layer.weight):
            return Site(layer, value, uses, permuted)
        held = torch.from_numpy(np.array(array.transpose(inverse), dtype=np.float32, copy=True)) if scaled else None
        gain = None if held is None else _gain(layer.to_matrix(held), layer.matrix)
        if gain is not None:
            return Site(layer, value, uses, permuted, None if bool((gain == 1).all()) else gain)
    return None


def _permutations(value: ir.Value, layer: Layer) -> list[tuple[int, ...]]:
    rank = layer.weight.ndim
    note = value.metadata_props.get(PERMUTED)
    if note:
        return [tuple(map(int, note.split(",")))]
    return list(permutations(range(rank))) if rank <= 3 else [tuple(range(rank))]


def _same(held: np.ndarray, weight: Tensor) -> bool:
    """Whether an array, in the parameter's layout, holds its values: often it is the same memory."""
    wanted = weight.detach().float().numpy()
    lies = (held.ctypes.data, held.strides, held.dtype) == (wanted.ctypes.data, wanted.strides, wanted.dtype)
    return lies or np.array_equal(held, wanted)


def _gain(held: Tensor, wanted: Tensor) -> Tensor | None:
    """Factor of each row that turns `wanted` into `held`; None if none does."""
    gains, residual = [], 0.0
    for rows in stretches(*held.shape):
        mine, theirs = held[rows].double(), wanted[rows].double()
        norm = theirs.square().sum(1)
        gain = (mine * theirs).sum(1) / norm.clamp_min(1e-30)
        residual = max(residual, float((mine - gain[:, None] * theirs).abs().max()))
        gain[norm == 0] = 1
        gains.append(gain.float())
    low, high = (float(v) for v in torch.aminmax(held))
    largest = max(-low, high)
    return None if not largest or residual > 1e-4 * largest else torch.cat(gains)


def require(sites: dict[str, Site], name: str) -> Site:
    """The site of a layer; an error if the graph does not have it."""
    if name not in sites:
        raise LessenError(
            "the layer's weight is not in the exported graph", where=name,
            mend="the exporter computed something from it; leave this layer out with --skip",
        )  # fmt: skip
    return sites[name]
