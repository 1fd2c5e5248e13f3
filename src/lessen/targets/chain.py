"""Writing a chain of nodes that computes a weight from what is stored; runtimes compute it once, at loading."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from .graph import Array, constant

COUNT = "lessen.values"  # how many values all chains of a graph have made
FLOAT, INT32, INT8 = ir.DataType.FLOAT, ir.DataType.INT32, ir.DataType.INT8


class Chain:
    """Nodes in the making, in front of all others.

    Args:
        graph: where they will stand.
        name: what the names of their values start with.
        folded: the weight must become a plain float constant. OpenVINO keeps integers behind a Cast to float (and a
            Mul) as they are, which its matrix products like and its other operators may refuse.
    """

    def __init__(self, graph: ir.Graph, name: str, folded: bool = True) -> None:
        self.graph, self.name, self.folded = graph, name, folded
        self.nodes: list[ir.Node] = []

    def constant(self, suffix: str, array: Array) -> ir.Value:
        """A stored tensor of this weight."""
        return constant(self.graph, f"{self.name}_{suffix}", array)

    def shared(self, name: str, array: Array) -> ir.Value:
        """A small constant that many weights need; stored once."""
        held = self.graph.initializers.get(f"shared_{name}")
        return constant(self.graph, f"shared_{name}", array) if held is None else held

    def op(self, kind: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        """The first output of a new node; a type given as `to` is that of a Cast."""
        node = ir.node(kind, list(inputs), attributes=attributes)
        number = self.graph.meta.get(COUNT, 0)
        self.graph.meta[COUNT] = number + 1
        node.outputs[0].name = f"decode.{number}"  # short: names are a good part of a small file
        self.nodes.append(node)
        return node.outputs[0]

    def floats(self, value: ir.Value) -> ir.Value:
        """Integers as float32."""
        return self.op("Cast", self.op("Cast", value, to=INT32) if self.folded else value, to=FLOAT)

    def shaped(self, value: ir.Value, shape: tuple[int, ...]) -> ir.Value:
        name = "shape_" + "x".join(map(str, shape))
        return self.op("Reshape", value, self.shared(name, np.array(shape, np.int64)))

    def place(self) -> None:
        """Puts the nodes at the beginning of the graph: they read nothing but constants."""
        if self.nodes:
            self.graph.insert_before(self.graph[0], self.nodes)
            self.nodes = []
