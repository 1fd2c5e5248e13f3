"""Which columns to put side by side, so that patterns of n in m cost less."""

from __future__ import annotations

import torch
from torch import Tensor

_ROWS = 256  # that the search looks at, evenly spread
_ROUNDS = 128  # of pairing up all groups of columns
_PATIENCE = 8  # rounds without any gain


def permutation(scores: Tensor, n: int, m: int) -> Tensor:
    """An order of the columns in which the n best of every m neighbours hold more of the scores in all.

    Groups of m columns are paired up at random, and each pair exchanges the two columns whose exchange gains most; so
    the sum never falls (Pool & Yu 2021, Channel permutations for N:M sparsity, NeurIPS; their greedy exchange).

    Args:
        scores: not negative, [rows, columns]; m divides columns.

    Returns:
        column numbers, int64 [columns].
    """
    rows, columns = scores.shape
    seen = scores[:: -(-rows // _ROWS)].T.contiguous()  # [columns, rows]
    generator, blocks = torch.Generator().manual_seed(0), columns // m
    order, idle = torch.arange(columns).view(blocks, m), 0
    for _ in range(_ROUNDS if blocks > 1 else 0):
        pairs = torch.randperm(blocks, generator=generator)[: blocks // 2 * 2].reshape(-1, 2)
        idle = 0 if _exchange(seen, order, pairs, n) else idle + 1
        if idle == _PATIENCE:
            break
    return order.flatten()


def _exchange(scores: Tensor, order: Tensor, pairs: Tensor, n: int) -> bool:
    """The best exchange inside each pair [p, 2] of blocks of `order` [blocks, m], in place; whether any gained."""
    m = order.shape[1]
    left, right = order[pairs[:, 0]], order[pairs[:, 1]]
    x, y = scores[left], scores[right]  # [p, m, rows]
    best_x, best_y = _best(x, n + 1), _best(y, n + 1)
    held = best_x[:, :n].sum((1, 2)) + best_y[:, :n].sum((1, 2))
    tried = _joined(x, best_x, y) + _joined(y, best_y, x).transpose(1, 2) - held[:, None, None]  # [p, of x, of y]
    gain, best = tried.flatten(1).max(1)
    some = (gain > 1e-6 * held).nonzero()[:, 0]
    i, j = best[some] // m, best[some] % m
    order[pairs[some, 0], i], order[pairs[some, 1], j] = right[some, j], left[some, i]
    return bool(len(some))


def _best(x: Tensor, k: int) -> Tensor:
    """The k highest along axis 1 of [p, m, rows], in falling order; k is small."""
    x, found = x.clone(), []
    for _ in range(k):
        value, place = x.max(1, keepdim=True)
        found.append(value)
        x.scatter_(1, place, -torch.inf)
    return torch.cat(found, 1)


def _joined(x: Tensor, best: Tensor, y: Tensor) -> Tensor:
    """What the n best of x [p, m, rows] hold when its column i is replaced by column j of y, [p, i, j].

    Without column i the best n - 1 of the others stay, and the next best or the new column joins them.

    Args:
        best: the n + 1 highest of x, [p, n + 1, rows].
    """
    last, following = best[:, -2:-1], best[:, -1:]
    ahead = x >= last  # column i is one of the n best
    stays = torch.where(ahead, best[:, :-1].sum(1, keepdim=True) - x, best[:, :-2].sum(1, keepdim=True)).sum(2)
    next_best = torch.where(ahead, following, last)
    joins = [torch.maximum(next_best, y[:, j : j + 1]).sum(2) for j in range(y.shape[1])]
    return stays[:, :, None] + torch.stack(joins, 2)
