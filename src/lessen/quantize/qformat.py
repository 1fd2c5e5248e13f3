"""`QFormat`: where the binary point of a fixed-point number lies, and whether sums of products can overflow."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..codings import Grid
from ..errors import LessenError
from ..models.layer import Layer


@dataclass(frozen=True)
class QFormat:
    """Qm.n: a signed number of 1 + m + n bits, value = code / 2^n. m or n may be negative.

    >>> QFormat.of(-0.9, 5.0, bits=8)
    QFormat(bits=8, fraction=4)
    """

    bits: int
    fraction: int

    @property
    def whole(self) -> int:
        """m: bits before the point, without the sign."""
        return self.bits - 1 - self.fraction

    @property
    def step(self) -> float:
        return 2.0**-self.fraction

    def __str__(self) -> str:
        return f"Q{self.whole}.{self.fraction}"

    @classmethod
    def of(cls, low: float, high: float, bits: int, where: str = "") -> QFormat:
        """The finest format of this many bits in which no value from `low` to `high` is clipped.

        Raises:
            LessenError: the range is empty or not finite, or no format reaches it.
        """
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            mend = "calibrate with finite values"
            raise LessenError(f"a range from {low} to {high} has no fixed-point format", where=where, mend=mend)
        most, least = (1 << bits - 1) - 1, 1 << bits - 1
        reach = max(high / most, -low / least)
        fraction = 0 if reach <= 0 else min(max(-math.ceil(math.log2(reach)), -126), 126)
        return cls(bits, fraction)

    def codes(self, x: Tensor, floor: bool = False) -> Tensor:
        """x as int64 codes: to nearest (halves up) or down, saturated. What goes into an integer network."""
        scaled = torch.ldexp(x.double(), torch.tensor(self.fraction))
        rounded = scaled.floor() if floor else (scaled + 0.5).floor()
        return rounded.clamp(-(1 << self.bits - 1), (1 << self.bits - 1) - 1).long()


def accumulator_bits(
    layer: Layer,
    grid: Grid,
    input_bits: int = 8,
    input_range: tuple[int, int] | None = None,
    bias: Tensor | None = None,
) -> int:
    """Bits of the least signed accumulator that no input can overflow, at any moment and in any order of the sum.

    The bound is attained: sum_j max(w_j low, w_j high, 0) is what the worst input makes of a row.

    Args:
        grid: the layer's codes; a zero point counts as a part of the weight.
        input_range: least and greatest input code; all of `input_bits` (signed) if None.
        bias: int64 [rows], in steps of the accumulator.

    Raises:
        LessenError: naming the layer and the row, when it takes more than 32 bits; or the range is empty.
    """
    low, high = input_range or (-(1 << input_bits - 1), (1 << input_bits - 1) - 1)
    if low > high or max(-low, high) >= 1 << 31:
        raise LessenError(f"input codes from {low} to {high}", where=layer.name, mend="give a range within 32 bits")
    zero = grid.zero_point.long().expand(grid.shape[0], -1).repeat_interleave(grid.group_size, 1)
    w = grid.codes.long() - zero
    most, least = torch.maximum(w * low, w * high).clamp_min(0).sum(1), torch.minimum(w * low, w * high).clamp_max(0)
    offset = torch.zeros_like(most) if bias is None else bias.long()
    top, bottom = most + offset.clamp_min(0), least.sum(1) + offset.clamp_max(0)
    bits = max(int(top.max()).bit_length(), (-int(bottom.min()) - 1).bit_length() if int(bottom.min()) < 0 else 0) + 1
    if bits > 32:
        row = int(torch.maximum(top, -bottom).argmax())
        raise LessenError(
            f"output {row} can reach {int(top[row])} or {int(bottom[row])}: {bits} bits, more than an int32 holds",
            where=layer.name,
            mend="use fewer bits for its weight or its input",
        )
    return bits
