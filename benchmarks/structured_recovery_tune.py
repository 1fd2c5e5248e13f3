"""One fine-tuning for everybody in structured_recovery: the same steps, data, loss and learning rate."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from structured_recovery_tasks import DEVICE, Samples, Task, loss_of
from torch import Tensor, nn

from lessen.train import Distillation

KEEP = 40  # steps between two states that are kept
DISTILL = Distillation(alpha=0.9, temperature=3.0)


@torch.no_grad()
def answers(network: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
    """The network's outputs for all samples, on the device."""
    network = network.to(DEVICE).eval()
    found = [network(*(x[i : i + 500].to(DEVICE) for x in inputs)).cpu() for i in range(0, len(inputs[0]), 500)]
    network.cpu()
    return torch.cat(found)


def teachings(network: nn.Module, task: Task) -> Tensor:
    """What the original says of every training sample: [1 or 2 (mirrored), n, ...]."""
    inputs = task.train[0]
    plain = answers(network, inputs)
    return torch.stack([plain, answers(network, tuple(x.flip(-1) for x in inputs))]) if task.mirror else plain[None]


def tune(
    network: nn.Module, task: Task, taught: Tensor | None, steps: int, rate: float, kept: Path | None = None
) -> nn.Module:
    """Adam with weight decay under a cosine with a short warm-up; batch norms learn their statistics anew.

    Args:
        taught: of `teachings`; None trains on the labels alone.
        steps: batches; as many epochs as that takes.
        kept: a file that holds the state now and then; a run that was stopped goes on from there, to the same end.
    """
    network.to(DEVICE).eval()
    for module in network.modules():
        module.training = isinstance(module, nn.modules.batchnorm._BatchNorm)
    for name, p in network.named_parameters():
        p.requires_grad_(p.is_floating_point() and name not in task.frozen)
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], rate, weight_decay=1e-4)
    start = _restored(network, optimizer, kept)
    for step, (rows, flipped) in enumerate(itertools.islice(_order(task), steps)):
        if step < start:
            continue
        done = step / steps
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (done + 0.01) / 0.05) * 0.5 * (1 + math.cos(math.pi * done))
        inputs, labels, wanted = _batch(task, taught, rows, flipped)
        outputs = network(*inputs)
        loss = loss_of(outputs, labels) if wanted is None else DISTILL(outputs, wanted, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        if kept is not None and step % KEEP == KEEP - 1:
            state = {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            torch.save(state, kept.with_suffix(".new"))
            kept.with_suffix(".new").replace(kept)
    return network.cpu().eval().requires_grad_(False)


def _restored(network: nn.Module, optimizer: torch.optim.Optimizer, kept: Path | None) -> int:
    if kept is None or not kept.is_file():
        return 0
    state = torch.load(kept)
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def _order(task: Task) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Rows of each batch, and which of them are mirrored; in random order, sentences of like length together."""
    inputs, labels = task.train
    generator = torch.Generator().manual_seed(0)
    while True:
        order = torch.randperm(len(labels), generator=generator)
        if not inputs[0].is_floating_point():
            order = (inputs[1].sum(1) + torch.rand(len(labels), generator=generator) * 4).argsort()
        batches = order[: len(order) // task.batch * task.batch].split(task.batch)
        for i in torch.randperm(len(batches), generator=generator).tolist():
            flipped = torch.rand(task.batch, generator=generator) < 0.5 if task.mirror else None
            yield batches[i], flipped


def _batch(
    task: Task, taught: Tensor | None, rows: Tensor, flipped: Tensor | None
) -> tuple[tuple[Tensor, ...], Tensor, Tensor | None]:
    """Inputs, labels and what the original says of them; sentences are cut to the longest of the batch."""
    inputs, labels = task.train
    given = tuple(x[rows] for x in inputs)
    if flipped is not None:
        given = tuple(torch.where(flipped[:, None, None, None], x.flip(-1), x) for x in given)
    if not inputs[0].is_floating_point():
        longest = int(given[1].sum(1).max())
        given = tuple(x[:, :longest] for x in given)
    wanted = None
    if taught is not None:
        wanted = taught[flipped.long(), rows] if flipped is not None else taught[0, rows]
    return tuple(x.to(DEVICE) for x in given), labels[rows].to(DEVICE), None if wanted is None else wanted.to(DEVICE)


def calibration(samples: Samples, count: int) -> Samples:
    """The first training samples: what importance is measured on, by every tool."""
    return tuple(x[:count] for x in samples[0]), samples[1][:count]
