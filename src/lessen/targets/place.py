"""Where a recurrent layer's weight lies in a graph."""

from __future__ import annotations

from dataclasses import dataclass, replace

import onnx_ir as ir
from torch import Tensor

from ..codings import Codebook, Coding, Dense, Grid, ScaledCodebook
from ..models.layer import Layer


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
    if isinstance(coding, ScaledCodebook):
        scale = coding.scale
        return replace(coding, indices=coding.indices[rows], scale=scale[rows] if len(scale) > 1 else scale)
    return Dense(coding.decode()[rows])
