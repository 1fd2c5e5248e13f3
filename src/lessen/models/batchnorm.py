"""Batch-norm re-estimation: running statistics of a changed network, measured anew."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LessenError

Norm = nn.modules.batchnorm._BatchNorm


@torch.no_grad()
def reestimated(module: nn.Module, batches: Iterable[tuple[Tensor, ...]]) -> nn.Module:
    """A copy whose batch norms have the mean and variance that their inputs really have, over all batches.

    After weights were rounded or removed the activations have other statistics than the ones that training left
    (Sun et al. 2019, "Hybrid 8-bit floating point training and inference", sec. 3.3, and Wu and Johnson 2021,
    "Rethinking batch in batch norm", sec. 3). While they are measured each batch norm uses its batch, as in training;
    the statistics of batches are joined exactly (by sums), so that their sizes don't matter.

    Args:
        module: in evaluation mode; not changed. Batch norms that were folded away can't be re-estimated: what is left
            of it then is bias correction, which `lessen.compress` always does.
        batches: tuples of inputs.

    Raises:
        LessenError: no batch norm with running statistics, or no batches.
    """
    made = copy.deepcopy(module)
    norms = [m for m in made.modules() if isinstance(m, Norm) and m.running_mean is not None]
    if not norms:
        raise LessenError("there is no batch norm in it", where=type(module).__name__, mend="they were folded away")
    sums = {norm: _Sums() for norm in norms}
    with _measuring(norms, sums):
        count = sum(1 for batch in batches if made(*batch) is not None)
    if not count:
        raise LessenError("there are no samples", where="batch-norm re-estimation", mend="give data")
    for norm, seen in sums.items():
        seen.into(norm)
    return made


class _Sums:
    """Count, sum and sum of squares of each channel."""

    def __init__(self) -> None:
        self.n, self.first, self.second = 0, torch.zeros(()), torch.zeros(())

    def add(self, x: Tensor) -> None:
        rows = x.movedim(1, -1).reshape(-1, x.shape[1]).double()
        self.n += len(rows)
        self.first = self.first + rows.sum(0)
        self.second = self.second + rows.square().sum(0)

    def into(self, norm: Any) -> None:
        if self.n < 2:
            return  # the samples never got there
        mean = self.first / self.n
        variance = (self.second / self.n - mean.square()).clamp_min(0) * (self.n / (self.n - 1))
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)


@contextlib.contextmanager
def _measuring(norms: Iterable[nn.Module], sums: dict[Any, _Sums]) -> Iterator[None]:
    """Batch norms use each batch's statistics and leave their own alone; everything else stays as it is."""
    before = [(n, n.training, n.track_running_stats) for n in norms]
    handles = [n.register_forward_pre_hook(lambda m, args: sums[m].add(args[0])) for n, _, _ in before]
    kept = [(n, n.running_mean, n.running_var) for n, _, _ in before]
    try:
        for norm, _, _ in before:
            norm.running_mean, norm.running_var = None, None  # type: ignore[assignment]
        yield
    finally:
        for handle in handles:
            handle.remove()
        for norm, mean, variance in kept:
            norm.running_mean, norm.running_var = mean, variance
