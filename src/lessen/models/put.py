"""Putting another weight into a layer of a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .layer import Layer


@torch.no_grad()
def put_matrix(
    module: nn.Module, layer: Layer, matrix: Tensor, mean: Tensor | None = None, scale: Tensor | None = None
) -> None:
    """Sets the layer's parameter to a matrix and moves its bias by the mean error that this makes.

    E[y] - E[y'] = (W - W') E[x] is added to the bias (Nagel et al. 2019, sec. 4.2), where there is a bias to move.

    Args:
        matrix: float [rows, columns], in place of `layer.matrix`.
        mean: of the layer's input columns, [groups, columns]; None leaves the bias.
        scale: [columns]; layer, matrix and mean are then those of the smoothed layer, the parameter is not.
    """
    owner, leaf = module.get_submodule(layer.module), layer.name.rpartition(".")[2]
    bias = getattr(owner, leaf.replace("weight", "bias"), None) if leaf.endswith("weight") else None
    if isinstance(bias, Tensor) and mean is not None and layer.kind in ("linear", "conv"):
        bias.add_(_mean_error(layer.matrix - matrix, mean).to(bias.dtype))
    getattr(owner, leaf).copy_(layer.from_matrix(matrix if scale is None else matrix / scale))


def _mean_error(delta: Tensor, mean: Tensor) -> Tensor:
    split = delta.reshape(mean.shape[0], -1, delta.shape[1])
    return (split @ mean[:, :, None]).flatten()
