"""`Layer`: a view of one weight of a network, as a matrix."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

KINDS = ("linear", "conv", "conv_transpose", "embedding", "recurrent")


@dataclass(frozen=True, eq=False)
class Layer:
    """One weight: its name, what it does, and the matrix that every technique sees.

    Args:
        name: path of the parameter, "features.0.conv.weight".
        kind: one of `KINDS`.
        weight: the parameter, detached, in its own layout.
        out_axis: the axis of `weight` that counts outputs (0 for Linear and Conv, 1 for ConvTranspose).
        groups: groups of a convolution.
        macs: multiply-accumulates for one sample.
        mask: bool matrix of weights that must stay (True) or stay zero (False); set when techniques are stacked.
        details: what else the operator needs (stride, padding, ...), plain values.
    """

    name: str
    kind: str
    weight: Tensor
    out_axis: int = 0
    groups: int = 1
    macs: int = 0
    mask: Tensor | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def module(self) -> str:
        """Path of the module that owns the parameter; "" for the network itself."""
        return self.name.rpartition(".")[0]

    @property
    def matrix(self) -> Tensor:
        """The weight as float32 [outputs, inputs / groups x kernel positions]."""
        return self.to_matrix(self.weight).float()

    @property
    def shape(self) -> tuple[int, int]:
        rows = self.weight.shape[self.out_axis] * (self.groups if self.kind == "conv_transpose" else 1)
        return (rows, self.weight.numel() // rows)

    def to_matrix(self, tensor: Tensor) -> Tensor:
        """A tensor in the parameter's layout, as a matrix."""
        if self.kind == "conv_transpose":  # [in, out/g, *k] -> [g * out/g, in/g * k]
            split = tensor.reshape(self.groups, tensor.shape[0] // self.groups, *tensor.shape[1:])
            return split.transpose(1, 2).reshape(self.groups * tensor.shape[1], -1)
        return tensor.movedim(self.out_axis, 0).reshape(tensor.shape[self.out_axis], -1)

    def from_matrix(self, matrix: Tensor) -> Tensor:
        """The inverse of `to_matrix`, in the parameter's layout and dtype."""
        shape = self.weight.shape
        if self.kind == "conv_transpose":
            split = matrix.reshape(self.groups, shape[1], shape[0] // self.groups, *shape[2:])
            return split.transpose(1, 2).reshape(shape).to(self.weight.dtype)
        moved = torch.Size([shape[self.out_axis], *shape[: self.out_axis], *shape[self.out_axis + 1 :]])
        return matrix.reshape(moved).movedim(0, self.out_axis).to(self.weight.dtype).contiguous()

    def with_matrix(self, matrix: Tensor, mask: Tensor | None = None) -> Layer:
        """The same layer holding another weight (and, if given, the mask it must keep to)."""
        return replace(self, weight=self.from_matrix(matrix), mask=self.mask if mask is None else mask)
