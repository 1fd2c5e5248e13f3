"""Weights that are trained on their grid, with the steps of the grid."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch
import torch.nn.utils.parametrize as parametrize
from torch import Tensor, nn

from ..codings import Coding, Grid, nearest
from ..models.layer import Layer
from .qat_quantizer import Learner, Slope
from .through import put_decoded, through_codings


class _OnGrid(nn.Module):
    """weight -> the weight on its grid; gradients reach the weight and the steps."""

    def __init__(self, layer: Layer, grid: Grid, slope: Slope, pruned: bool, scale: Tensor | None) -> None:
        super().__init__()
        self.layer, self.grid = layer, grid
        self.scale = None if scale is None else scale.clone()
        self.keep = grid.decode() != 0 if pruned else None
        zero = grid.zero_point[..., None].float()
        low, high = grid.ends if grid.symmetric else (end - zero for end in grid.ends)
        self.learner = Learner(grid.scale[..., None].float(), low, high, slope, zero if grid.odd else None)

    def forward(self, weight: Tensor) -> Tensor:
        matrix = self._matrix(weight)
        rows, columns = matrix.shape
        held = self.learner(matrix.reshape(rows, self.grid.scale.shape[1], -1)).reshape(rows, columns)
        held = held if self.keep is None else held * self.keep
        return self.layer.from_matrix(held if self.scale is None else held / self.scale)

    def recode(self, weight: Tensor) -> Grid:
        """The coding of the trained weight, with the trained steps."""
        grid = replace(self.grid, scale=self.learner.step.detach()[..., 0].clone())
        made = nearest(grid, self._matrix(weight.detach()), keep_zeros=False)
        assert isinstance(made, Grid)
        zeros = self.grid.zero_point.repeat_interleave(self.grid.group_size, 1).to(made.codes.dtype)
        codes = made.codes if self.keep is None else torch.where(self.keep, made.codes, zeros)
        return replace(made, codes=codes)

    def _matrix(self, weight: Tensor) -> Tensor:
        matrix = self.layer.to_matrix(weight).float()
        return matrix if self.scale is None else matrix * self.scale


@contextmanager
def through_grids(
    module: nn.Module,
    layers: Mapping[str, Layer],
    codings: Mapping[str, Coding],
    slope: Slope | None,
    pruned: frozenset[str] = frozenset(),
    scales: Mapping[str, Tensor] | None = None,
) -> Iterator[dict[str, Coding]]:
    """`through_codings`, but where there is a slope the steps of every `Grid` are trained too.

    On leaving, the parameters hold the decoded weights and the yielded dictionary the codings of the trained ones.

    Args:
        slope: how steps learn; None leaves them.
        pruned: layers whose zeros stay zero.
        scales: a coding of a layer in here is that of the weight times its scale [columns].
    """
    learned = {n: c for n, c in codings.items() if isinstance(c, Grid) and slope is not None}
    rest = {n: c for n, c in codings.items() if n not in learned}
    made: dict[str, Coding] = {}
    with ExitStack() as stack:
        others = stack.enter_context(through_codings(module, layers, rest, pruned, scales))
        for name, grid in learned.items():
            owner, leaf = module.get_submodule(layers[name].module), name.rpartition(".")[2]
            assert slope is not None
            held = _OnGrid(layers[name], grid, slope, name in pruned, (scales or {}).get(name))
            parametrize.register_parametrization(owner, leaf, held, unsafe=True)
        try:
            yield made
        finally:
            for name in learned:
                owner, leaf = module.get_submodule(layers[name].module), name.rpartition(".")[2]
                found = owner.parametrizations[leaf]  # type: ignore[index]
                made[name] = found[0].recode(found.original)  # type: ignore[union-attr]
                parametrize.remove_parametrizations(owner, leaf, leave_parametrized=True)
                put_decoded(owner, leaf, layers[name], made[name], (scales or {}).get(name))
    made.update(others)
