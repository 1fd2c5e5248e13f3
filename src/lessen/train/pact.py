"""`PACT`: quantization-aware training that learns where to clip activations."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..errors import LessenError
from .qat import QuantizationAware
from .qat_quantizer import Slope, Total


def pact_slope(g: Tensor, passed: Tensor, x: Tensor, y: Tensor, total: Total) -> Tensor:
    """d(loss) / d(log step) as clipping alone has it: 0 inside the range, g y outside (eq. 3)."""
    return total(g - passed, y)


@dataclass(frozen=True)
class PACT(QuantizationAware):
    """Parameterized clipping activation (Choi et al. 2018, https://arxiv.org/abs/1805.06085).

    The end alpha of each activation's range is a parameter: what lies beyond pulls it outwards, a penalty decay *
    alpha^2 inwards. Weights are trained straight through on the steps of the post-training result, in place of the
    paper's tanh-scaled weights, and alpha starts at that result's range too, of least squared error, in place of far
    outside; so the penalty is a tenth of the paper's, which Adam would follow at full speed wherever little is clipped.
    An activation with negative values is clipped at both ends, in proportion. Settings: see
    `QuantizationAware`, and

    Args:
        decay: weight of the penalty.

    >>> quantized = lessen.apply(model, PACT(bits=8, activations=4, epochs=2), train_data)  # doctest: +SKIP
    """

    decay: float = 2e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.decay < 1:
            raise LessenError(f"decay={self.decay!r}", where="PACT", mend="give a number from 0 up, like 2e-4")

    @property
    def slopes(self) -> tuple[Slope | None, Slope | None]:
        return None, Slope(pact_slope, self.decay)
