"""SparseGPT, re-derived from its paper with the settings of its authors, on one weight matrix.

Frantar & Alistarh 2023, https://arxiv.org/abs/2301.00774, algorithm 1: blocks of 128 columns, dampening of 1 % of the
mean diagonal, the mask of each block chosen when it is reached; for n of m, of each m columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK, DAMP = 128, 0.01


def sparsegpt(W: Tensor, H: Tensor, sparsity: float, pattern: tuple[int, int] | None = None) -> Tensor:
    """The pruned and updated weights.

    Args:
        W: float32 [rows, columns].
        H: second moment of the input, float32 [columns, columns].
        sparsity: share of each block's weights to remove, where there is no pattern.
        pattern: (n, m): n of every m consecutive columns stay.
    """
    W = W.clone()
    U = _upper(W, H)
    for start in range(0, W.shape[1], BLOCK):
        end = min(start + BLOCK, W.shape[1])
        block, u = W[:, start:end].clone(), U[start:end, start:end]
        errors, gone = torch.zeros_like(block), torch.zeros_like(block, dtype=torch.bool)
        if pattern is None:
            scores = block.square() / u.diagonal().square()
            gone = scores <= scores.flatten().sort().values[int(scores.numel() * sparsity)]
        for j in range(end - start):
            if pattern is not None and j % pattern[1] == 0:
                n, m = pattern
                scores = block[:, j : j + m].square() / u.diagonal()[j : j + m].square()
                gone.scatter_(1, j + scores.topk(m - n, 1, largest=False).indices, True)
            kept = block[:, j].masked_fill(gone[:, j], 0)
            errors[:, j] = (block[:, j] - kept) / u[j, j]
            block[:, j:] -= errors[:, j, None] * u[None, j, j:]
            block[:, j] = kept
        W[:, start:end] = block
        W[:, end:] -= errors @ U[start:end, end:]
    return W


def _upper(W: Tensor, H: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse of the dampened H; weights of dead inputs are set to zero in `W`."""
    H = H.clone()
    dead = H.diagonal() == 0
    H[dead, dead] = 1
    W[:, dead] = 0
    H.diagonal().add_(DAMP * H.diagonal().mean())
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(H)), upper=True)
