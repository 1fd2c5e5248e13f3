"""Weights of LSTM, GRU and RNN nodes: all directions in one initializer, gates in the order of ONNX."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from ..codings import Dense
from ..models.layer import Layer
from .chain import Chain
from .coded import Coded
from .decode import decoded
from .graph import Array, array_of
from .lstm import write_integer_lstm
from .place import Place

# gates of torch in the order that ONNX wants: i f g o -> i o f c, r z n -> z r h
ORDER = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}


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


def write_recurrent(graph: ir.Graph, coded: Coded, integer: bool = False) -> None:
    """Every coded recurrent weight as nodes that decode it; runtimes do that once, when they load the file.

    Args:
        integer: the runtime has an integer LSTM: one that shall find its ranges at run time becomes that.
    """
    found: dict[tuple[int, int], dict[int, Place]] = {}
    for place in places(graph, coded.layers):
        if place.layer.name in coded.codings:
            found.setdefault((id(place.node), place.index), {})[place.direction] = place
    for key, directions in found.items():
        if integer and key[1] == 1 and write_integer_lstm(graph, directions, found.get((key[0], 2), {}), coded):
            continue
        if directions[next(iter(directions))].node.graph is not None:  # else it was replaced together with the other
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
