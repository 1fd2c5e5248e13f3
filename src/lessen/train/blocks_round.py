"""Rounding that is learned: each code may go to either of two neighbours (AdaRound, Nagel et al. 2020)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from ..codings import Grid
from ..models.layer import Layer

STRETCH = (-0.1, 1.1)  # the sigmoid is stretched and cut, so that 0 and 1 are really reached (sec. 3.3, eq. 23)
_TRUST = 0.9  # of the way from the weight itself to the code that rounding starts from


class SoftRounding(nn.Module):
    """W~ = s clip(l + h(V), n, p), h(V) = clip(1.2 sigmoid(V) - 0.1, 0, 1)  (Nagel et al. 2020, eq. 22 and 23).

    l is the lower of two neighbouring codes: the one that rounding starts from, and the next one towards the weight.

    Args:
        layer: with its float weight.
        grid: what the rounding starts from; its steps stay.
    """

    def __init__(self, layer: Layer, grid: Grid) -> None:
        super().__init__()
        self.layer, self.grid = layer, grid
        codes, self.scale = grid.codes.float(), grid.scale.float().repeat_interleave(grid.group_size, 1)
        self.zero = grid.zero_point.float().repeat_interleave(grid.group_size, 1)
        real = layer.matrix / self.scale + self.zero
        self.gap = 2 if grid.odd else 1  # from one code to the next
        self.lower = codes - self.gap * (codes > real).float()
        h = ((real - self.lower) / self.gap).clamp(0, 1)
        h = h + _TRUST * ((codes - self.lower) / self.gap - h)
        share = ((h - STRETCH[0]) / (STRETCH[1] - STRETCH[0])).clamp(1e-3, 1 - 1e-3)
        self.V = nn.Parameter(share.logit())
        self.keep = None if layer.mask is None else layer.mask.float()
        self.edges = grid.ends

    @property
    def h(self) -> Tensor:
        """Share of the upper neighbour, 0 to 1, like the matrix."""
        low, high = STRETCH
        return (self.V.sigmoid() * (high - low) + low).clamp(0, 1)

    def forward(self) -> Tensor:
        """The soft weight, in the parameter's layout."""
        matrix = ((self.lower + self.gap * self.h).clamp(*self.edges) - self.zero) * self.scale
        return self.layer.from_matrix(matrix if self.keep is None else matrix * self.keep)

    def undecided(self) -> Tensor:
        """sum 1 - |2 h - 1|^2: 0 where every h is 0 or 1 (eq. 24, with the exponent that annealing ends at)."""
        return (1 - (2 * self.h - 1).square()).sum()

    @torch.no_grad()
    def coding(self) -> Grid:
        """The codes as they are decided now."""
        codes = (self.lower + self.gap * (self.h >= 0.5).float()).clamp(*self.edges)
        codes = codes if self.keep is None else torch.where(self.keep > 0, codes, self.zero)
        return replace(self.grid, codes=codes.to(self.grid.codes.dtype).contiguous())
