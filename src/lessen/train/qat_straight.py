"""`StraightThrough`: quantization-aware training with ranges that stay."""

from __future__ import annotations

from dataclasses import dataclass

from .qat import QuantizationAware
from .qat_quantizer import Slope


@dataclass(frozen=True)
class StraightThrough(QuantizationAware):
    """Quantization-aware training with fixed ranges (Bengio et al. 2013; Jacob et al. 2018).

    The network computes with rounded weights and activations; the gradient passes the rounding as if it were not
    there, and is 0 outside of the range. Steps and ranges stay those of the post-training result, which it starts
    from: weights rounded with error feedback, ranges of least squared error, biases corrected. Batch norms are folded
    before and stay so; the original network teaches (`Distillation`). Settings: see `QuantizationAware`.

    >>> quantized = lessen.apply(model, StraightThrough(bits=4, activations=8), train_data)  # doctest: +SKIP
    """

    @property
    def slopes(self) -> tuple[Slope | None, Slope | None]:
        return None, None
