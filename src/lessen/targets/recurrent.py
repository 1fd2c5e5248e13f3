"""Weights of LSTM, GRU and RNN nodes: all directions in one initializer, gates in the order of ONNX."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from ..codings import Codebook, Coding, Dense, Grid
from ..models.layer import Layer
from .chain import Chain
from .coded import Coded
from .decode import decoded
from .graph import Array, array_of

# gates of torch in the order that ONNX wants: i f g o -> i o f c, r z n -> z r h
ORDER = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}


@dataclass(frozen=True, eq=False)
class Place:
    """Where a recurrent layer's weight lies.

    Args:
        layer: the layer.
        node: the LSTM, GRU or RNN.
        index: 1 for the weights of the input, 2 for those of the state.
        direction: row of the initializer [directions, gates x hidden, columns].
        rows: int64 [gates x hidden]; the initializer's rows are the layer's in this order.
        order: the same by blocks of gates; (0,) where they are as they are.
    """

    layer: Layer
    node: ir.Node
    index: int
    direction: int
    rows: Tensor
    order: tuple[int, ...]

    def in_order(self, coding: Coding) -> Coding:
        """The coding with its rows as the initializer has them."""
        return _ordered(coding, self.rows)


def places(graph: ir.Graph, layers: tuple[Layer, ...]) -> Iterator[Place]:
    """The recurrent layers that the graph has, found by their values."""
    wanted = [x for x in layers if x.kind == "recurrent"]
    nodes = [n for n in graph.all_nodes() if n.op_type in ORDER] if wanted else []
    slots = [(n, i, array_of(n.inputs[i])) for n in nodes for i in (1, 2)]
    taken: set[tuple[int, int, int]] = set()
    for layer in wanted:
        for node, index, array in slots:
            found = None if array is None else _found(layer, array, ORDER[node.op_type])
            if found is not None and (id(node), index, found[0]) not in taken:
                taken.add((id(node), index, found[0]))
                yield Place(layer, node, index, *found)
                break


def _found(layer: Layer, array: Array, order: tuple[int, ...]) -> tuple[int, Tensor, tuple[int, ...]] | None:
    weight = layer.matrix
    if array.ndim != 3 or array.shape[1:] != tuple(weight.shape) or len(weight) % len(order):
        return None
    same = torch.arange(len(weight))
    turned = torch.cat([same.chunk(len(order))[i] for i in order])
    for direction, held in enumerate(torch.from_numpy(np.array(array, np.float32))):
        for rows, by in ((turned, order), (same, (0,))):
            if torch.equal(held, weight[rows]):
                return direction, rows, by
    return None


def write_recurrent(graph: ir.Graph, coded: Coded) -> None:
    """Every coded recurrent weight as nodes that decode it; runtimes do that once, when they load the file."""
    found: dict[tuple[int, int], dict[int, Place]] = {}
    for place in places(graph, coded.layers):
        if place.layer.name in coded.codings:
            found.setdefault((id(place.node), place.index), {})[place.direction] = place
    for directions in found.values():
        _write(graph, directions, coded)


def _write(graph: ir.Graph, directions: dict[int, Place], coded: Coded) -> None:
    first = next(iter(directions.values()))
    held = array_of(first.node.inputs[first.index])
    assert held is not None
    chain = Chain(graph, f"{first.node.name or first.node.op_type}_{'WR'[first.index - 1]}")
    parts = []
    for d, array in enumerate(held):
        own = Chain(graph, directions[d].layer.name if d in directions else f"{chain.name}{d}")
        coding = directions[d].in_order(coded.codings[directions[d].layer.name]) if d in directions \
            else Dense(torch.from_numpy(np.array(array)))  # fmt: skip
        value = decoded(own, coding)
        chain.nodes += own.nodes
        parts.append(chain.shaped(value, (1, *array.shape)))
    value = chain.op("Concat", *parts, axis=0) if len(parts) > 1 else parts[0]
    value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(held.shape)
    chain.place()
    old = first.node.inputs[first.index]
    for use in list(old.uses()) if old is not None else ():  # the same layer may stand in several branches
        use.node.replace_input_with(use.idx, value)


def _ordered(coding: Coding, rows: Tensor) -> Coding:
    """The coding of the matrix with its rows in another order."""
    if isinstance(coding, Grid):
        each = coding.scale.shape[0] > 1
        return replace(
            coding, codes=coding.codes[rows], scale=coding.scale[rows] if each else coding.scale,
            zero_point=coding.zero_point[rows] if each else coding.zero_point,
        )  # fmt: skip
    if isinstance(coding, Codebook):
        table = coding.centroids
        return replace(coding, indices=coding.indices[rows], centroids=table[rows] if len(table) > 1 else table)
    return Dense(coding.decode()[rows])
