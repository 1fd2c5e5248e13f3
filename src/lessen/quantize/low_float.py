"""`LowFloat`: floating-point numbers of four, six or eight bits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..codings import ScaledCodebook
from ..errors import LessenError
from ..models.layer import Layer
from ..statistics.statistics import Statistics
from .table import How, check_per, on_table

# name -> exponent bits, mantissa bits, largest finite value (OCP 8-bit Floating Point and Microscaling, 2023)
FORMATS = {
    "e2m1": (2, 1, 6.0),
    "e2m3": (2, 3, 7.5),
    "e3m2": (3, 2, 28.0),
    "e4m3": (4, 3, 448.0),
    "e5m2": (5, 2, 57344.0),
}


def low_float(name: str) -> Tensor:
    """Every finite value of a format, float32 ascending, zero once."""
    exponent_bits, mantissa_bits, top = FORMATS[name]
    bias, steps = (1 << exponent_bits - 1) - 1, 1 << mantissa_bits
    exponent = torch.arange(1, 1 << exponent_bits, dtype=torch.float64) - bias
    normal = torch.exp2(exponent)[:, None] * (1 + torch.arange(steps, dtype=torch.float64) / steps)
    below = 2.0 ** (1 - bias) * torch.arange(1, steps, dtype=torch.float64) / steps
    positive = torch.cat([below, normal.flatten()])
    positive = positive[positive <= top]
    return torch.cat([-positive.flip(0), torch.zeros(1, dtype=torch.float64), positive]).float()


@dataclass(frozen=True)
class LowFloat:
    """FP4, FP6 and FP8 with a scale each, and MX blocks (Rouhani et al. 2023, https://arxiv.org/abs/2310.10537).

    `LowFloat("e2m1", per=32, powers=True)` is MXFP4: blocks of 32 whose scale is a power of two. The scale is chosen
    by squared error weighted by the input's second moment and values are rounded with error feedback.

    Args:
        format: "e2m1" (FP4), "e2m3" or "e3m2" (FP6), "e4m3" or "e5m2" (FP8).
        per: one scale for groups of this many columns, for each output "channel", or for the whole "tensor".
        powers: scales are powers of two, as in MX.
        feedback: False rounds to nearest.

    >>> LowFloat("e4m3", per="channel").encode(layer, statistics)  # doctest: +SKIP
    """

    format: str = "e2m1"
    per: str | int = 32
    powers: bool = False
    feedback: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.format, str) or self.format not in FORMATS:
            raise LessenError(f"format={self.format!r}", where="LowFloat", mend=f"give one of {', '.join(FORMATS)}")
        check_per("LowFloat", self.per)

    def encode(self, layer: Layer, statistics: Statistics) -> ScaledCodebook:
        """The layer's weight in the format; `LessenError` if groups don't divide its columns or it isn't finite."""
        return on_table(layer, statistics, low_float(self.format), How(self.per, self.powers, self.feedback))

    @classmethod
    def offers(cls) -> tuple[LowFloat, ...]:
        """MXFP4 and FP8 per channel."""
        return (cls("e4m3", "channel"), cls("e2m1", 32, powers=True))
