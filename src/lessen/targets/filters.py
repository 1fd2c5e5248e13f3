"""Long filters of a signal with one channel, as products with whole rows of it: the same sums, by faster kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from .graph import constant, copied

LONG, MANY = 32, 128  # taps and outputs from which rewriting pays
WIDE, TALL = 32, 16  # channels in and out that keep a kernel busy; from so many filters on it is busy without
COUNT = "lessen.rows"  # how many nodes were made for them in a graph
PREFIX = "rows."


@dataclass(frozen=True)
class Filters:
    """`count` filters of `taps` values, every `stride` positions of `length`: `each` outputs are made at a time."""

    count: int
    taps: int
    stride: int
    length: int
    pads: tuple[int, int]
    between: int  # axes of size 1 between channels and positions

    @property
    def each(self) -> int:
        return min(max(-(-WIDE // self.stride), -(-TALL // self.count)), self.outputs)

    @property
    def outputs(self) -> int:
        return (self.length + sum(self.pads) - self.taps) // self.stride + 1

    @property
    def blocks(self) -> int:
        return -(-self.outputs // self.each)

    @property
    def row(self) -> int:
        """Values that the window moves on from one block to the next: the new channels."""
        return self.stride * self.each

    @property
    def rows(self) -> int:
        """That a block's window takes: the new taps."""
        return -(-(self.taps + self.stride * (self.each - 1)) // self.row)


def rowed(model: ir.Model) -> ir.Model:
    """Convolutions of one channel to few with many taps, in place: rows of the signal become channels, outputs too.

    y[n e + j] = sum_k w[k] x[(n e + j) s + k] is, for e outputs at a time, a convolution over rows of e s values with
    the Toeplitz matrix of w, which the runtime makes of w at loading. Runtimes compute sums over many channels several
    times as fast as sums over the positions of one (the low pass in front of basic-pitch's filter bank: 1.1 against
    0.24 ms in OpenVINO). Only those that stayed in float, of signals whose length is known.
    """
    found = [n for n in model.graph if _is_long(n)]
    held: dict[Any, ir.Value] = {}
    for node, length in zip(found, _lengths(model, found), strict=True):
        filters = None if length is None else _filters(node, length)
        if filters is not None and filters.outputs >= MANY and filters.count < TALL:
            _write(model.graph, node, filters, held)
    return model


def _is_long(node: ir.Node) -> bool:
    """One channel in, many taps along the last axis only, weight and input in float."""
    x, w = (node.inputs[0], node.inputs[1]) if node.op_type == "Conv" else (None, None)
    shape = None if w is None else w.shape
    if x is None or shape is None or not all(isinstance(d, int) for d in shape) or len(shape) < 3:
        return False
    plain = all(d == 1 for d in (*shape[1:-1], *node.attributes.get_ints("dilations", ())))
    fixed = node.attributes.get_string("auto_pad", "NOTSET") in ("NOTSET", "VALID")
    rounded = any(v is not None and v.producer() is not None and v.producer().op_type == "DequantizeLinear"  # type: ignore[union-attr]
                  for v in (x, w))  # fmt: skip
    return plain and fixed and int(shape[-1]) >= LONG and not rounded  # type: ignore[arg-type]


def _lengths(model: ir.Model, convolutions: Sequence[ir.Node]) -> list[int | None]:
    """Of their signals, inferred where the graph does not say."""
    known = [_length(n.inputs[0]) for n in convolutions]
    if None not in known:
        return known
    import onnx_ir.passes.common as passes

    inferred = copied(model)
    passes.ShapeInferencePass()(inferred)
    values = {v.name: v for v in inferred.graph.inputs} | {v.name: v for n in inferred.graph for v in n.outputs}
    return [_length(values.get(n.inputs[0].name)) for n in convolutions]  # type: ignore[union-attr]


def _length(x: ir.Value | None) -> int | None:
    """If all that lies between its channel and its positions is of size 1."""
    shape = None if x is None else x.shape
    known = shape is not None and all(d == 1 for d in shape[1:-1]) and isinstance(shape[-1], int)
    return int(shape[-1]) if known else None  # type: ignore[arg-type, index]


def _filters(node: ir.Node, length: int) -> Filters | None:
    shape = node.inputs[1].shape  # type: ignore[union-attr]
    assert shape is not None
    between = len(shape) - 3
    pads = node.attributes.get_ints("pads", (0,) * (2 * between + 2))
    strides = node.attributes.get_ints("strides", (1,) * (between + 1))
    if any(p for i, p in enumerate(pads) if i % (between + 1) != between):
        return None
    return Filters(int(shape[0]), int(shape[-1]), strides[-1], length, (pads[between], pads[-1]), between)  # type: ignore[arg-type]


def _write(graph: ir.Graph, conv: ir.Node, f: Filters, held: dict[Any, ir.Value]) -> None:
    new = _Nodes(graph)
    x, w = conv.inputs[:2]
    key = (w, f.each, f.stride)
    if key not in held:
        held[key] = _toeplitz(new, w, f)
    last, ones = f.between + 2, (1,) * f.between
    reach = (f.blocks + f.rows - 1) * f.row
    first, behind = f.pads[0], reach - f.pads[0] - f.length
    others = (0,) * last
    if behind < 0:
        x = new.sliced(x, f.length + behind, last)
    y = new.op("Pad", x, new.whole(*others, first, *others, max(behind, 0))) if first or behind > 0 else x
    y = new.op("Reshape", y, new.whole(0, *ones, f.blocks + f.rows - 1, f.row))
    y = new.op("Transpose", y, perm=[0, last, *range(1, last)])
    bias = conv.inputs[2] if len(conv.inputs) > 2 else None
    y = new.op("Conv", y, held[key], name=str(conv.name))  # by which name its time is found
    if f.each > 1:
        y = new.op("Reshape", y, new.whole(0, f.count, f.each, f.blocks))
        y = new.op("Transpose", y, perm=[0, 1, 3, 2])
        y = new.op("Reshape", y, new.whole(0, f.count, *ones, f.blocks * f.each))
        if f.blocks * f.each > f.outputs:
            y = new.sliced(y, f.outputs, last)
    if bias is not None:
        shape = new.whole(f.count, *ones, 1)
        y = new.op("Add", y, new.op("Reshape", bias, shape))
    new.place(conv, y)


def _toeplitz(new: _Nodes, w: ir.Value | None, f: Filters) -> ir.Value:
    """[count * each, row, rows]: every filter, moved on by a stride for each output of a block."""
    window = f.rows * f.row
    flat = new.op("Reshape", w, new.whole(f.count, 1, f.taps))
    flat = new.op("Pad", flat, new.whole(0, 0, 0, 0, 0, window + f.stride - f.taps))
    flat = new.op("Expand", flat, new.whole(f.count, f.each, window + f.stride))
    flat = new.sliced(new.op("Reshape", flat, new.whole(f.count, -1)), f.each * window, 1)
    matrix = new.op("Reshape", flat, new.whole(f.count * f.each, f.rows, f.row))
    matrix = new.op("Transpose", matrix, perm=[0, 2, 1])
    return new.op("Reshape", matrix, new.whole(f.count * f.each, f.row, *(1,) * f.between, f.rows))


class _Nodes:
    """New nodes in front of a convolution, in order. Their names are short: they are a good part of a small file."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph, self.made = graph, list[ir.Node]()

    def op(self, kind: str, *inputs: ir.Value | None, name: str = "", **attributes: Any) -> ir.Value:
        number = self.graph.meta.get(COUNT, 0)
        self.graph.meta[COUNT] = number + 1
        node = ir.node(kind, list(inputs), attributes=attributes, name=name or f"{PREFIX}{number}")
        node.outputs[0].name, node.outputs[0].type = f"{PREFIX}{number}", ir.TensorType(ir.DataType.FLOAT)
        self.made.append(node)
        return node.outputs[0]

    def whole(self, *numbers: int) -> ir.Value:
        key = "whole." + "_".join(map(str, numbers))
        held = self.graph.initializers.get(key)
        return constant(self.graph, key, np.array(numbers, np.int64)) if held is None else held

    def sliced(self, x: ir.Value | None, end: int, axis: int) -> ir.Value:
        return self.op("Slice", x, self.whole(0), self.whole(end), self.whole(axis))

    def place(self, conv: ir.Node, result: ir.Value) -> None:
        old = conv.outputs[0]
        self.graph.insert_before(conv, self.made)
        old.replace_all_uses_with(result, replace_graph_outputs=True)
        result.name, old.name = old.name, f"{old.name}_replaced"
        result.type, result.shape = old.type, old.shape
        self.graph.remove([conv], safe=True)
