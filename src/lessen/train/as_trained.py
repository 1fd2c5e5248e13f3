"""`AsTrained`: a weight as training left it, its zeros told apart from the rest."""

from __future__ import annotations

from dataclasses import dataclass

from ..codings import Sparse
from ..models.layer import Layer


@dataclass(frozen=True)
class AsTrained:
    """Exact zeros cost next to nothing in a packed file, the survivors stay in float.

    >>> AsTrained().encode(layer, statistics)  # doctest: +SKIP
    """

    def encode(self, layer: Layer, statistics: object) -> Sparse:
        """The layer's own values, those at zero (or outside of its mask) as zeros."""
        matrix = layer.matrix
        mask = matrix != 0 if layer.mask is None else layer.mask
        return Sparse(mask, matrix[mask])

    @classmethod
    def offers(cls) -> tuple[AsTrained, ...]:
        """Nothing by itself: it says nothing new of a network that was not trained."""
        return ()
