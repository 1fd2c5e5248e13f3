"""Which weights survive: shared by all criteria."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..codings import Sparse
from ..errors import LessenError
from ..models.layer import Layer


def check_sparsity(sparsity: object, where: str) -> None:
    """`LessenError` unless 0 <= sparsity < 1."""
    if isinstance(sparsity, bool) or not isinstance(sparsity, (int, float)) or not 0 <= sparsity < 1:
        raise LessenError(
            f"sparsity={sparsity!r}", where=where, mend="give the share of weights to remove, 0 <= s < 1 (0.5)"
        )


def lowest(scores: Tensor, k: int) -> float:
    """The value with k lower or equal ones before it in order; NumPy finds it in a tenth of `kthvalue`'s time."""
    return float(np.partition(scores.numpy(), k)[k])


def strongest(scores: Tensor, sparsity: float) -> Tensor:
    """True for the highest scores of the last axis, exactly round((1 - sparsity) * n) of them, at least one.

    Ties go to the earlier one, so that the same scores always give the same mask.
    """
    n = scores.shape[-1]
    kept = max(1, n - round(sparsity * n))
    if scores.ndim == 1:  # one long row: a threshold first, then only the ties in order
        edge = lowest(scores, n - kept)
        mask = scores > edge
        ties = (scores == edge).nonzero()[:, 0][: kept - int(mask.sum())]
        mask[ties] = True
        return mask
    best = scores.argsort(dim=-1, descending=True, stable=True)[..., :kept]
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, best, True)


def sparse(matrix: Tensor, mask: Tensor) -> Sparse:
    """The coding that holds `matrix` [rows, columns] at `mask` and nothing elsewhere."""
    return Sparse(mask, matrix[mask].float())


def pruned(layer: Layer, scores: Tensor, sparsity: float) -> Sparse:
    """The layer without the weights of the lowest scores [rows, columns], which are not negative; a mask is kept."""
    mask = strongest((scores if layer.mask is None else scores * layer.mask).flatten(), sparsity).reshape(layer.shape)
    return sparse(layer.matrix, mask if layer.mask is None else mask & layer.mask)
