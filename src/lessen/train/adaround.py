"""`AdaRound`: rounding learned layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .blocks_method import Reconstruction


@dataclass(frozen=True)
class AdaRound(Reconstruction):
    """Adaptive rounding (Nagel et al. 2020, https://arxiv.org/abs/2004.10568).

    Whether each weight goes to the code below or above it is learned, layer after layer: the layer's output behind
    its activation, in the network rounded so far, shall be that of the float network. A rectified sigmoid moves
    between the two codes, and a regularizer presses it to one of them. What differs from the paper: rounding starts
    from second-order rounding in turn where that is better than nearest on samples that no step learns from; not the
    regularizer's exponent is annealed but its weight; steps and biases are learned when the codes are settled; and
    what is learned is kept only where it is better on those samples. Settings: see `Reconstruction`.

    >>> rounded = lessen.apply(model, AdaRound(bits=4), data)  # doctest: +SKIP
    """

    blocks: ClassVar[bool] = False
