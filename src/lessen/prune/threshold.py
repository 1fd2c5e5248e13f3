"""`Threshold`: weights below a size go, however many they are."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ..codings import Sparse
from ..errors import LessenError, did_you_mean
from ..models.layer import Layer
from ..statistics.problem import problem
from ..statistics.statistics import Statistics
from .mask import sparse

UNITS = ("largest", "std", "absolute")


@dataclass(frozen=True)
class Threshold:
    """Removes the weights with |w| < threshold; `forecast` says beforehand how many that are.

    Args:
        threshold: above 0, in the unit that `of` names.
        of: "largest": a share of the layer's largest |w|; "std": multiples of the layer's standard deviation, the
            "sensitivity" of Han et al. 2015 (https://arxiv.org/abs/1506.02626); "absolute": |w| itself.

    >>> Threshold(0.5, of="std").encode(layer, statistics)  # doctest: +SKIP
    """

    threshold: float = 0.1
    of: str = "largest"

    def __post_init__(self) -> None:
        if self.of not in UNITS:
            raise LessenError(f"of={self.of!r}", where="Threshold", mend=did_you_mean(str(self.of), UNITS))
        number = isinstance(self.threshold, (int, float)) and not isinstance(self.threshold, bool)
        most = 1.0 if self.of == "largest" else math.inf
        if not number or not 0 < self.threshold < most:
            told = "a share of the largest weight, 0 < t < 1" if self.of == "largest" else "a number above 0"
            raise LessenError(f"threshold={self.threshold!r}", where="Threshold", mend=f"give {told}")

    def forecast(self, layer: Layer) -> float:
        """The share of the layer's weights that will be zero, 0 to 1; `LessenError` if none would be left."""
        return float((~self._mask(layer)).double().mean())

    def encode(self, layer: Layer, statistics: Statistics) -> Sparse:
        """The weights that are large enough; `LessenError` if none is, with the largest threshold that leaves one."""
        problem(layer, statistics)  # finite, and the statistics fit
        return sparse(layer.matrix, self._mask(layer))

    def _mask(self, layer: Layer) -> Tensor:
        matrix, unit = layer.matrix.double(), self._unit(layer)
        mask = matrix.abs() >= self.threshold * unit
        if layer.mask is not None:
            mask &= layer.mask
        if not bool(mask.any()):
            most = _highest(float((matrix if layer.mask is None else matrix * layer.mask).abs().max()), unit)
            raise LessenError(
                f"a threshold of {self.threshold!r} ({self.of}) removes all of its {mask.numel()} weights",
                where=layer.name,
                mend=f"at most {most!r} leaves one; or leave this layer out" if most else "leave it out: all are zero",
            )
        return mask

    def _unit(self, layer: Layer) -> float:
        """The size that a threshold of 1 stands for."""
        if self.of == "absolute":
            return 1.0
        matrix = layer.matrix.double()
        return float(matrix.abs().max() if self.of == "largest" else matrix.std(correction=0))

    @classmethod
    def offers(cls) -> tuple[Threshold, ...]:
        """Nothing: the chooser asks for shares, which `Magnitude` gives; it is there for those who ask."""
        return ()


def _highest(size: float, unit: float) -> float:
    """The highest threshold whose product with `unit` does not exceed `size`."""
    most = size / unit
    while most * unit > size:
        most = math.nextafter(most, 0.0)
    return most
