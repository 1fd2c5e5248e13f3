"""Codings as arrays that a runtime's operators take."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..codings import Coding, Dense, Grid, Sparse
from ..memory import stretches

TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Int8Matrix:
    """Signed 8-bit codes [rows, columns] with one scale a row, zero point 0.

    Args:
        exact: it decodes to just what the coding decodes to; else the coding was rounded once more to 8 bits.
        bits: codes lie in [-2^(bits - 1), 2^(bits - 1) - 1].
    """

    codes: Tensor
    scale: Tensor
    exact: bool
    bits: int = 8


def int8_matrix(coding: Coding) -> Int8Matrix:
    """The coding as integers with per-channel scales: as it is when it fits, rounded again to 8 bits when not."""
    if isinstance(coding, Grid) and fits_int8(coding):
        scale = coding.scale.float().expand(coding.shape[0], 1)[:, 0]
        return Int8Matrix(_signed(coding), scale.clamp_min(TINY).contiguous(), True, _bits(coding))
    return rounded(coding.decode())


def fits_int8(grid: Grid) -> bool:
    """One scale a row or a tensor, and codes that are signed 8-bit integers around 0."""
    if grid.scale.shape[1] != 1:
        return False
    return _bits(grid) <= 8


def _signed(grid: Grid) -> Tensor:
    """Codes around 0 of a grid that fits, int8."""
    if grid.symmetric:
        return grid.codes.to(torch.int8)
    zero = grid.zero_point.to(torch.int32).expand(grid.shape[0], 1)
    parts = [(grid.codes[s].to(torch.int32) - zero[s]).to(torch.int8) for s in stretches(*grid.shape)]
    return torch.cat(parts) if parts else grid.codes.to(torch.int8)


def _bits(grid: Grid) -> int:
    """`signed_bits` of the codes around 0 of a grid with one scale a row or a tensor."""
    if not grid.codes.numel():
        return 1
    ends = torch.cat(torch.aminmax(grid.codes, dim=1, keepdim=True), 1)
    return signed_bits(ends.to(torch.int32) - grid.zero_point.to(torch.int32))


def signed_bits(codes: Tensor) -> int:
    """The least n such that all codes lie in [-2^(n - 1), 2^(n - 1) - 1]."""
    if not codes.numel():
        return 1
    low, high = (int(v) for v in torch.aminmax(codes))
    return max((max(high, ~low)).bit_length() + 1, 1)


def rounded(matrix: Tensor) -> Int8Matrix:
    """Round-to-nearest, symmetric, per channel."""
    largest = matrix.abs().amax(1) if matrix.numel() else torch.zeros(len(matrix))
    scale = (largest / 127).clamp_min(TINY)
    codes = (matrix / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
    return Int8Matrix(codes, scale, not matrix.any())


def is_float(coding: Coding) -> bool:
    """Held in floating point: no integer arithmetic is asked for."""
    return isinstance(coding, (Dense, Sparse))
