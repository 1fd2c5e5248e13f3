"""A plain training loop for the zoo's small networks: deterministic, with generators of its own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Batches = Callable[[torch.Generator], Iterator[tuple[Tensor, Tensor]]]


def initialise(network: nn.Module, seed: int) -> nn.Module:
    """Fresh weights (He et al. 2015) from a generator of their own; the global one isn't touched."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02, generator=generator)
    return network


def shuffled(x: Tensor, y: Tensor, batch: int, augment: bool = False) -> Batches:
    """Batches of one epoch in random order, the last part-batch left out; `augment` mirrors half of the images."""

    def epoch(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(x), generator=generator)
        for rows in order[: len(x) // batch * batch].split(batch):
            images = x[rows]
            if augment:
                mirror = torch.rand(len(rows), 1, 1, 1, generator=generator) < 0.5
                images = torch.where(mirror, images.flip(-1), images)
            yield images, y[rows]

    return epoch


def train(
    network: nn.Module,
    batches: Batches,
    epochs: int,
    *,
    steps: int,
    rate: float = 3e-3,
    decay: float = 5e-4,
    seed: int = 0,
) -> None:
    """AdamW under a cosine that starts with a short warm-up; `steps` is the number of batches in one epoch."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=decay)
    total, step, started = epochs * steps, 0, time.monotonic()
    network.train().to(memory_format=torch.channels_last)  # a fifth faster on an ordinary CPU
    for epoch in range(epochs):
        losses = []
        for x, y in batches(generator):
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / total))
            loss = F.cross_entropy(network(x).flatten(0, -2), y.flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            step += 1
        loss_mean, seconds = sum(losses) / len(losses), time.monotonic() - started
        print(f"  epoch {epoch + 1}: loss {loss_mean:.4f}, {seconds:.0f} s", flush=True)
    network.eval().to(memory_format=torch.contiguous_format)


@torch.no_grad()
def accuracy(network: nn.Module, x: Tensor, y: Tensor, batch: int = 500) -> float:
    """Share of samples whose largest output is the label."""
    hits = [network(a).argmax(-1) == b for a, b in zip(x.split(batch), y.split(batch), strict=True)]
    return torch.cat(hits).float().mean().item()
