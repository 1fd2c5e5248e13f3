"""`PowerOfTwo`: logarithmic levels, products become shifts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..codings import ScaledCodebook
from ..errors import LessenError
from ..models.layer import Layer
from ..statistics.statistics import Statistics
from .table import How, check_per, check_whole, on_table

_REACH = 31  # further down than this an exponent is no use to any weight


def power_of_two(bits: int, terms: int) -> Tensor:
    """Zero and every sign * sum of `terms` values, each 0 or a power of two; float32 ascending, at most 2^bits - 1.

    One bit is the sign; the others are shared out, the first term first. Term i has 0 and the exponents -i,
    -i - terms, -i - 2 terms, ..., so that no sum occurs twice.
    """
    magnitudes = torch.zeros(1, dtype=torch.float64)
    for i in range(terms):
        own = (bits - 1 + terms - 1 - i) // terms
        exponents = -i - terms * torch.arange((1 << own) - 1, dtype=torch.float64)
        term = torch.cat([torch.zeros(1, dtype=torch.float64), torch.exp2(exponents)])
        magnitudes = (magnitudes[:, None] + term).flatten()
    return torch.cat([-magnitudes, magnitudes]).unique().float()


@dataclass(frozen=True)
class PowerOfTwo:
    """Signed powers of two, or sums of two of them; the scale is one too, so every value is exact in shifts.

    One term: Zhou et al. 2017, https://arxiv.org/abs/1702.03044, and Miyashita et al. 2016 (logarithmic); two terms:
    additive powers of two, Li et al. 2020, https://arxiv.org/abs/1909.13144.

    Args:
        bits: 2 to 6 with one term, 3 to 8 with two.
        terms: 1 or 2 powers of two a weight.
        per: one scale for each output "channel", for the whole "tensor", or for groups of this many columns.
        feedback: False rounds to nearest.

    >>> PowerOfTwo(bits=4, terms=2).encode(layer, statistics)  # doctest: +SKIP
    """

    bits: int = 4
    terms: int = 1
    per: str | int = "channel"
    feedback: bool = True

    def __post_init__(self) -> None:
        check_whole("PowerOfTwo", "bits", self.bits, 2, 8)
        check_whole("PowerOfTwo", "terms", self.terms, 1, 2)
        check_per("PowerOfTwo", self.per)
        if self.terms == 1 and self.bits > 6:
            mend = f"{self.bits} bits with one term reach below 2^-{_REACH}; give terms=2"
            raise LessenError(f"bits={self.bits}", where="PowerOfTwo", mend=mend)
        if self.terms == 2 and self.bits < 3:
            raise LessenError(f"bits={self.bits} with two terms", where="PowerOfTwo", mend="give 3 bits or terms=1")

    def encode(self, layer: Layer, statistics: Statistics) -> ScaledCodebook:
        """The layer's weight in powers of two; `LessenError` if groups don't divide its columns or it isn't finite."""
        table = power_of_two(self.bits, self.terms)
        return on_table(layer, statistics, table, How(self.per, True, self.feedback))

    @classmethod
    def offers(cls) -> tuple[PowerOfTwo, ...]:
        """Six bits with two terms: one term alone is above what a uniform grid of fewer bits reaches."""
        return (cls(6, 2),)
