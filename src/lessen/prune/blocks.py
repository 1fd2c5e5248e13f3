"""`Blocks`: small rectangles of weights go together, of the shape that vector units read."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..codings import Sparse
from ..errors import LessenError
from ..models.layer import Layer
from ..statistics.problem import Problem, problem
from ..statistics.second_order import join, split
from ..statistics.statistics import Statistics
from .mask import check_sparsity, strongest
from .removal import refitted

_LARGEST = 4096  # rows or columns of a block
_STEPS = 8  # of conjugate gradients on what is left


@dataclass(frozen=True)
class Blocks:
    """Removes the blocks of rows x columns with the least sum of w_j^2 E[x_j^2], then refits the weights that stay.

    1 x N along the inputs or N x 1 along the outputs fit vector units (Narang et al. 2017,
    https://arxiv.org/abs/1711.02782, with the largest |w| for the sum); the refit is least squares under the
    second moment of the input, where that is known.

    Args:
        rows, columns: of a block; they must divide the layer's matrix.
        sparsity: share of the blocks to remove, 0 <= s < 1; at least one stays.

    >>> Blocks(1, 8, sparsity=0.5).encode(layer, statistics)  # doctest: +SKIP
    """

    rows: int = 1
    columns: int = 4
    sparsity: float = 0.5

    def __post_init__(self) -> None:
        for name, size in (("rows", self.rows), ("columns", self.columns)):
            if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= _LARGEST:
                raise LessenError(f"{name}={size!r}", where="Blocks", mend=f"give 1 to {_LARGEST}")
        if self.rows == self.columns == 1:
            raise LessenError("rows=1, columns=1 is no block", where="Blocks", mend="use OptimalBrain or Wanda")
        check_sparsity(self.sparsity, "Blocks")

    def encode(self, layer: Layer, statistics: Statistics) -> Sparse:
        """The blocks that stay; `LessenError` if blocks don't divide the layer or weights aren't finite."""
        rows, columns = layer.shape
        if rows % self.rows or columns % self.columns:
            raise LessenError(
                f"{rows} x {columns} weights can't be cut into blocks of {self.rows} x {self.columns}",
                where=layer.name,
                mend="give rows and columns that divide them, or leave this layer out",
            )
        p = problem(layer, statistics)
        scores = join(p.W.square() * p.diagonal[:, :, None])
        mask = self._choose(scores if layer.mask is None else scores * layer.mask)
        return refitted(p, self._kept(p, mask), _STEPS)

    def _choose(self, scores: Tensor) -> Tensor:
        """True at the strongest blocks of scores [rows, columns]."""
        r, c = scores.shape
        sums = scores.reshape(r // self.rows, self.rows, c // self.columns, self.columns).sum((1, 3))
        best = strongest(sums.flatten(), self.sparsity).reshape(sums.shape)
        return best.repeat_interleave(self.rows, 0).repeat_interleave(self.columns, 1)

    def _kept(self, p: Problem, mask: Tensor) -> Tensor:
        kept = split(mask.float(), p.groups)
        return kept if p.keep is None else kept * p.keep

    @classmethod
    def offers(cls) -> tuple[Blocks, ...]:
        """Four inputs or four outputs at a time: their positions take few bytes."""
        return (cls(1, 4, 0.5), cls(4, 1, 0.5))
