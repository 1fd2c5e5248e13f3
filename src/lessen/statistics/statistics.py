"""`Statistics`: what calibration learned of one layer, and harm, the one currency."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..memory import stretches

if TYPE_CHECKING:
    from .gradients import LayerGradients
    from .unread import Unread


@dataclass(frozen=True, eq=False)
class Statistics:
    """What one streaming pass over the calibration data learned of a layer.

    Args:
        H: second moment of the input columns, E[x xT], float32 [groups, columns, columns]; only its diagonal,
            [groups, columns], for layers too wide to hold it; None if it was never seen or not asked for.
        mean: mean of the input columns, float32 [groups, columns].
        G: second moment of the loss gradient at each output, summed over positions, mean over samples, float32 [rows].
        low, high: the range that the input was seen in.
        positions: output positions per sample (pixels, tokens).
        samples: how many samples were seen; 0 when the data never reached the layer.
        observations: rows of input columns that `H` is the mean of (samples x positions taken); 0 if not known.
        gradients: of the loss by the single weights, computed when first asked for; None if they can't be.
        extremes: lowest and highest value of each input column, float32 [columns] each; None for convolutions.
        unread: where a network's inputs say that a position is padding, which H and mean then leave out.

    An embedding is the transposed case: its rows are tokens, so `G` [rows] is how often a sample looks a row up
    and `H` [1, columns, columns] the second moment of the loss gradient at what it returns.
    """

    H: Tensor | None = None
    mean: Tensor | None = None
    G: Tensor | None = None
    low: float = 0.0
    high: float = 0.0
    positions: int = 1
    samples: int = 0
    observations: int = 0
    gradients: LayerGradients | None = field(default=None, repr=False)
    extremes: tuple[Tensor, Tensor] | None = field(default=None, repr=False)
    unread: Unread | None = None

    @property
    def full(self) -> Tensor | None:
        """`H` [groups, columns, columns], or None when less than that is known."""
        return self.H if self.H is not None and self.H.ndim == 3 else None

    def diagonal(self, columns: int) -> Tensor:
        """E[x_j^2], float32 [groups, columns]; ones [1, columns] when it is not known."""
        if self.H is None:
            return torch.ones(1, columns)
        return self.H if self.H.ndim == 2 else self.H.diagonal(dim1=-2, dim2=-1)

    def row_weights(self, rows: int) -> Tensor:
        """`G`, or ones [rows] when it is not known."""
        return torch.ones(rows) if self.G is None else self.G

    def harm(self, delta: Tensor) -> float:
        """Predicted increase of the loss when the weight matrix moves by `delta` [rows, columns].

        1/2 * sum_r G_r * d_r H d_rT, the Kronecker-factored Fisher approximation (Martens & Grosse 2015, sec. 3)
        with a diagonal output factor. Without H the input counts as white, without G every output counts 1.
        """
        rows, columns = delta.shape
        diagonal = self.diagonal(columns)
        split = delta.float().reshape(diagonal.shape[0], -1, columns)
        groups, each, _ = split.shape
        per_row = torch.cat([self._moved(split[:, s], diagonal) for s in stretches(each, groups * columns)], 1)
        return float(0.5 * (self.row_weights(rows).double() * per_row.reshape(rows).clamp_min(0)).sum())

    def _moved(self, split: Tensor, diagonal: Tensor) -> Tensor:
        """d H dT of each row, float64 [groups, rows of one]."""
        moved = split * diagonal[:, None] if self.full is None else split @ self.full
        return torch.einsum("grc,grc->gr", moved.double(), split.double())
