"""Calibration without data: samples made up so that every batch norm sees what it saw in training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ..errors import LessenError

Norm = nn.modules.batchnorm._BatchNorm
LABEL = "made up from batch-norm statistics: no real sample was seen"


def made_up(module: nn.Module, shape: Sequence[int], count: int = 64, steps: int = 200, seed: int = 0) -> Tensor:
    """Samples [count, *shape] whose activations have the mean and variance that the network's batch norms remember.

    Gaussian noise, moved by Adam down sum_l |mean_l - mu_l|^2 / var_l + |std_l / sigma_l - 1|^2 over all batch norms
    (Cai et al. 2020, "ZeroQ", eq. 3, here in units of the remembered deviation). They stand in for calibration data
    where there are none: ranges, second moments and means come out about right; what a network is worth on real
    data they can't tell.

    Args:
        module: with batch norms that keep running statistics, not folded; not changed.
        shape: of one sample of its only input.
        steps: of the optimizer.

    Returns:
        float32. Whoever shows figures that rest on it says so: `LABEL`.

    Raises:
        LessenError: there is no batch norm to learn from.
    """
    norms = [m for m in module.modules() if isinstance(m, Norm) and m.running_mean is not None]
    if not norms:
        raise LessenError(
            "the network has no batch norms whose statistics could stand in for data",
            where=type(module).__name__, mend="give a few dozen real samples; labels are not needed",
        )  # fmt: skip
    noise = torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))
    samples = noise.requires_grad_(True)
    optimizer = torch.optim.Adam([samples], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with _watched(module, norms) as seen:
        for _ in range(steps):
            seen.clear()
            module(samples)
            loss = torch.stack([_distance(m, x) for m, x in seen]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return samples.detach()


def _distance(norm: nn.Module, x: Tensor) -> Tensor:
    """How far the batch's statistics are from the remembered ones, in their own units; channels that never vary
    count as if they varied a little."""
    mean, variance = norm.running_mean, norm.running_var
    assert isinstance(mean, Tensor) and isinstance(variance, Tensor)
    rows = x.movedim(1, -1).reshape(-1, x.shape[1])
    deviation = (variance + 1e-3 * variance.mean().clamp_min(1e-8)).sqrt()
    off = (rows.mean(0) - mean) / deviation
    wide = (rows.var(0, unbiased=False) + 1e-8).sqrt() / deviation - 1
    return off.square().mean() + wide.square().mean()


@contextlib.contextmanager
def _watched(module: nn.Module, norms: Sequence[nn.Module]) -> Iterator[list[tuple[nn.Module, Tensor]]]:
    """Collects what every batch norm gets; the network is frozen, in evaluation mode, and as before afterwards."""
    seen: list[tuple[nn.Module, Tensor]] = []
    handles = [n.register_forward_pre_hook(lambda m, args: seen.append((m, args[0]))) for n in norms]
    modes = [(m, m.training) for m in module.modules()]
    frozen = [(p, p.requires_grad) for p in module.parameters()]
    try:
        module.eval().requires_grad_(False)
        yield seen
    finally:
        for handle in handles:
            handle.remove()
        for m, training in modes:
            m.training = training
        for p, requires in frozen:
            p.requires_grad_(requires)
