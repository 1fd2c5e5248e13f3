"""`nearest`: a moved weight, held again with the same tables; what training through a coding needs."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .codebook import Codebook
from .coding import Coding
from .dense import Dense
from .grid import Grid, odd_
from .scaled import ScaledCodebook
from .sparse import Sparse


def nearest(coding: Coding, matrix: Tensor, keep_zeros: bool = False) -> Coding:
    """The coding of `matrix` with the scales, centroids or mask of `coding`; same kind, same size.

    Args:
        coding: gives the tables. A `LowRank` is returned as it is: its factors are layers of their own.
        matrix: float [rows, columns], the shape of `coding`.
        keep_zeros: what decodes to zero now stays zero (a pruned weight).
    """
    if isinstance(coding, Dense):
        return Dense(matrix.to(coding.values.dtype))
    if isinstance(coding, Sparse):
        return Sparse(coding.mask, matrix[coding.mask].to(coding.values.dtype))
    if isinstance(coding, Grid):
        return replace(coding, codes=_grid_codes(coding, matrix, keep_zeros))
    if isinstance(coding, (Codebook, ScaledCodebook)):
        return replace(coding, indices=_indices(coding, matrix, keep_zeros))
    return coding


def _grid_codes(grid: Grid, matrix: Tensor, keep_zeros: bool) -> Tensor:
    rows, columns = grid.shape
    split = matrix.reshape(rows, grid.scale.shape[1], -1)
    zero = grid.zero_point[..., None].float()
    scale = grid.scale[..., None].float().clamp_min(1e-30)
    steps = split / scale
    codes = odd_(steps + zero) if grid.odd else steps.round_() + zero
    codes = codes.clamp_(*grid.ends).reshape(rows, columns).to(grid.codes.dtype)
    if keep_zeros:
        pruned = grid.decode() == 0
        codes = torch.where(pruned, grid.codes, codes)
    return codes


def _indices(book: Codebook | ScaledCodebook, matrix: Tensor, keep_zeros: bool) -> Tensor:
    if isinstance(book, ScaledCodebook):
        matrix = matrix.float() / book.scale.float().clamp_min(1e-30).repeat_interleave(book.group_size, 1)
    table = book.centroids.float().expand(book.shape[0], -1)
    order = table.argsort(dim=1)
    ordered = table.gather(1, order)
    edges = (ordered[:, 1:] + ordered[:, :-1]) / 2
    rank = torch.searchsorted(edges.contiguous(), matrix.contiguous().float())
    indices = order.gather(1, rank).to(book.indices.dtype)
    return torch.where(book.decode() == 0, book.indices, indices) if keep_zeros else indices
