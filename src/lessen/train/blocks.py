"""`BlockReconstruction`: rounding learned block by block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from .blocks_method import Reconstruction


@dataclass(frozen=True)
class BlockReconstruction(Reconstruction):
    """Block reconstruction (BRECQ: Li et al. 2021, https://arxiv.org/abs/2102.05426).

    As `AdaRound`, but the rounding of all layers of a block is learned together from the block's output: what one
    layer loses another can make up for. Blocks are residual blocks, or pairs of layers where there are none
    (`blocks_units`). Errors are weighted by the diagonal of the Fisher information of the block's outputs (eq. 10).

    Measured: at two bits the blocks of a ResNet-8 are left with a fifth to two fifths less error than second-order
    rounding in turn leaves, and its accuracy does not change by it (89.8 beside 89.9 %, 81.9 % without turn); so the
    chooser uses this only where it is named.

    >>> rounded = lessen.apply(model, BlockReconstruction(bits=3), data)  # doctest: +SKIP
    """

    blocks: ClassVar[bool] = True
