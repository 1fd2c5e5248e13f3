"""`NormalFloat`: levels at the quantiles of a Gaussian."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..codings import ScaledCodebook
from ..models.layer import Layer
from ..statistics.statistics import Statistics
from .table import How, check_per, check_whole, on_table


def normal_float(bits: int) -> Tensor:
    """The 2^bits levels in [-1, 1], float32 ascending: quantiles of N(0, 1), one of them exactly 0 (appendix E)."""
    n = 1 << bits
    offset = 1 - (1 / (2 * n - 2) + 1 / (2 * n)) / 2
    upper, lower = (
        torch.special.ndtri(torch.linspace(offset, 0.5, count, dtype=torch.float64))[:-1]
        for count in (n // 2 + 1, n // 2)
    )
    table = torch.cat([-lower, torch.zeros(1, dtype=torch.float64), upper.flip(0)])
    return (table / upper[0]).float()


@dataclass(frozen=True)
class NormalFloat:
    """NF4 and its kin (Dettmers et al. 2023, QLoRA, https://arxiv.org/abs/2305.14314): value = level * scale.

    The paper's scale is the group's largest magnitude; here it is the one with the least squared error weighted by
    the input's second moment, and values are rounded with error feedback.

    Args:
        bits: 2 to 8; 4 is NF4.
        per: one scale for groups of this many columns, for each output "channel", or for the whole "tensor".
        feedback: False rounds to nearest.

    >>> NormalFloat(bits=4, per=64).encode(layer, statistics)  # doctest: +SKIP
    """

    bits: int = 4
    per: str | int = 64
    feedback: bool = True

    def __post_init__(self) -> None:
        check_whole("NormalFloat", "bits", self.bits, 2, 8)
        check_per("NormalFloat", self.per)

    def encode(self, layer: Layer, statistics: Statistics) -> ScaledCodebook:
        """The layer's weight on the table; `LessenError` if groups don't divide its columns or it isn't finite."""
        return on_table(layer, statistics, normal_float(self.bits), How(self.per, False, self.feedback))

    @classmethod
    def offers(cls) -> tuple[NormalFloat, ...]:
        """NF4 in groups of 64."""
        return (cls(),)
