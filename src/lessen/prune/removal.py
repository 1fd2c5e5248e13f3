"""The kernel of second-order pruning: remove the weight that hurts least, let the others take over its work."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..codings import Sparse
from ..statistics.problem import Problem
from ..statistics.second_order import Factor, join, polish
from .mask import sparse

Choice = Callable[[Tensor], Tensor]  # scores [groups, columns of a block, rows] -> 1 where a weight stays, 0 else

_DAMP = 0.02  # of the mean diagonal: without, the first columns lean on the later ones more than these can bear


def remove(W: Tensor, factor: Factor, choose: Choice, keep: Tensor | None, block: int) -> tuple[Tensor, Tensor]:
    """Weights [g, c, r] with the chosen ones removed and the rest updated, and the mask (1 stays, 0 is gone).

    Columns in order; the mask of a block is chosen when it is reached, from w^2 * pivot: what removing that weight
    alone costs given all that was removed before (SparseGPT: Frantar & Alistarh 2023, sec. 3; LDLQ form).

    Args:
        keep: 1 where a weight may stay; None if all may.
    """
    A, columns = factor.feedback, W.shape[1]
    Q, E, mask = torch.empty_like(W), torch.empty_like(W), torch.empty_like(W)
    for start in range(0, columns, block):
        end = min(start + block, columns)
        target = W[:, start:end]
        if start:
            target = target + A[:, start:end, :start] @ E[:, :start]
        scores = target.square() * factor.pivots[:, start:end, None]
        mask[:, start:end] = choose(scores if keep is None else scores * keep[:, start:end])
        if keep is not None:
            mask[:, start:end] *= keep[:, start:end]
        for j in range(start, end):
            x = target[:, j - start]
            if j > start:
                x = x + (A[:, j : j + 1, start:j] @ E[:, start:j])[:, 0]
            torch.mul(x, mask[:, j], out=Q[:, j])
            torch.sub(W[:, j], Q[:, j], out=E[:, j])
    return Q, mask


def prune(p: Problem, choose: Choice, block: int, steps: int) -> Sparse:
    """The layer with the chosen weights removed and the survivors near the least squares of the layer's error.

    Where the second moment is missing or singular, or where the simple way does less harm: the weights with the
    highest w^2 E[x^2] stay as they are.

    Args:
        choose: picks the survivors of `block` columns.
        steps: of conjugate gradients at the end, for what one pass over the columns leaves undone.
    """
    scores = p.W.square() * p.diagonal[:, :, None]
    mask = choose(scores if p.keep is None else scores * p.keep) * (1.0 if p.keep is None else p.keep)
    Q = p.W * mask
    if p.H is not None and (factor := p.factor(torch.arange(p.W.shape[1]), _DAMP)) is not None:
        updated, kept = remove(p.W, factor, choose, p.keep, block)
        updated = polish(p.W, kept, updated, p.H, steps) * kept
        if bool(kept.any()) and p.harm(updated) <= p.harm(Q):
            Q, mask = updated, kept
    return sparse(join(Q), join(mask).bool())
