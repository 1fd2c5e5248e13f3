"""`AWQ`: the scale that makes the weights of the loudest inputs hurt less when they are rounded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import LessenError
from ..models.layer import Layer
from ..statistics.statistics import Statistics
from .scale import levels, unclipped
from .table import check_per, check_whole, group_size

_STEPS = 20  # of the exponent, as the authors


@dataclass(frozen=True)
class AWQ:
    """Activation-aware scales (Lin et al. 2023, sec. 3.2, https://arxiv.org/abs/2306.00978) for weights to be rounded.

    s = size of the input^a, channel by channel, with the a in [0, 1] that leaves the least error in the outputs when
    weight * s is rounded to nearest; the size is the root of the second moment (the paper: the mean magnitude).
    `lessen.activation_aware` folds s into the network; `lessen.compress` does where AWQ is among its techniques.

    Args:
        bits: 2 to 8, of the weights that s is for.
        per: "channel", or columns per group.

    >>> AWQ(bits=3, per=128).scale([layer], statistics)  # doctest: +SKIP
    """

    bits: int = 4
    per: str | int = 128

    def __post_init__(self) -> None:
        check_whole("AWQ", "bits", self.bits, 2, 8)
        check_per("AWQ", self.per)
        if self.per == "tensor":
            raise LessenError("per='tensor'", where="AWQ", mend='give "channel" or columns per group')

    @classmethod
    def offers(cls) -> tuple[AWQ, ...]:
        """For weights of four bits, a step for each output channel: any number of columns takes it."""
        return (cls(per="channel"),)

    def scale(self, layers: Sequence[Layer], statistics: Statistics) -> Tensor:
        """s, float32 [columns], for layers that read one and the same input, whose statistics these are.

        Raises:
            LessenError: groups don't divide the columns.
        """
        for layer in layers:
            group_size(layer, self.per)
        size = statistics.diagonal(layers[0].shape[1])[0].float().sqrt()
        best, chosen = float("inf"), torch.ones_like(size)
        for step in range(_STEPS):
            s = size.pow(step / _STEPS).clamp_min(1e-4)
            s = s / (s.max() * s.min()).sqrt()
            error = sum(self._error(x.matrix.float(), s, statistics) for x in layers)
            if error < best:
                best, chosen = error, s
        return chosen

    def _error(self, W: Tensor, s: Tensor, statistics: Statistics) -> float:
        """Of the outputs, when W * s is rounded to nearest on a grid that clips nothing."""
        low, high = levels(self.bits)
        groups = (W * s).reshape(-1, W.shape[1] if isinstance(self.per, str) else self.per)
        scale, zero = (t.float()[:, None] for t in unclipped(groups, self.bits, False))
        codes = ((groups / scale).round() + zero).clamp(low, high)
        E = ((codes - zero) * scale).reshape(W.shape) / s - W
        moved = E * statistics.diagonal(W.shape[1])[0] if statistics.full is None else E @ statistics.full[0]
        return float((moved * E).sum(dtype=torch.float64))
