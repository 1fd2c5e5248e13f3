"""`LSQ`: quantization-aware training that learns the steps of weights and activations."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .qat import QuantizationAware
from .qat_quantizer import Slope, Total


def lsq_slope(g: Tensor, passed: Tensor, x: Tensor, y: Tensor, total: Total) -> Tensor:
    """d(loss) / d(log step): g (y - x) inside the range, where y - x is the rounding error, and g y outside (eq. 3)."""
    return total(g, y) - total(passed, x)


@dataclass(frozen=True)
class LSQ(QuantizationAware):
    """Learned step size quantization (Esser et al. 2020, https://arxiv.org/abs/1902.08153).

    The steps of weights and activations are parameters: their gradient is the rounding error inside the range and the
    end of the range outside (eq. 3). Two things differ from the paper: training starts from the post-training result
    (see `StraightThrough`), and the logarithm of a step is learned, which with Adam takes the place of the paper's
    scaling of the gradient. A signed activation keeps the zero point of its first range. Settings: see
    `QuantizationAware`.

    >>> quantized = lessen.apply(model, LSQ(bits=4, activations=4, epochs=2), train_data)  # doctest: +SKIP
    """

    @property
    def slopes(self) -> tuple[Slope | None, Slope | None]:
        return Slope(lsq_slope), Slope(lsq_slope)
