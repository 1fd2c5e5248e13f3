"""Losses whose gradient says how much each output of each layer matters, when there are no labels."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .batches import inputs_of


def tensors_of(value: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and mappings (a model's output), in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for v in value.values():
            yield from tensors_of(v)
    elif isinstance(value, (tuple, list)):
        for v in value:
            yield from tensors_of(v)


def _generator(batch: Any) -> torch.Generator:
    """Of other numbers for each batch, the same in every run: seeded by the first bytes of the batch's inputs."""
    seed = 0
    for x in tensors_of(inputs_of(batch)) if batch is not None else ():
        seed = zlib.crc32(x.detach().flatten()[:1024].contiguous().numpy().tobytes(), seed)
    return torch.Generator().manual_seed(seed)


def error_of_outputs(output: Any, batch: Any = None) -> Tensor:
    """Per sample, a random projection of the outputs whose squared gradient is that of their relative error.

    E[g gT] over the projections is the Gauss-Newton matrix of |y - y0|^2 / |y0|^2, so that harm becomes half the
    relative squared error of the network's output. Deterministic: a generator of its own.
    """
    generator = _generator(batch)
    total: Tensor | float = 0.0
    for y in tensors_of(output):
        if y.is_floating_point() and y.requires_grad and y.numel():
            flat = (y if y.ndim else y[None]).reshape(y.shape[0] if y.ndim else 1, -1)
            noise = torch.randn(flat.shape, generator=generator)
            norm = flat.detach().float().norm(dim=1).clamp_min(1e-12)
            total = total + (flat.float() * noise).sum(1) / norm
    return torch.as_tensor(total)


def sampled_labels(output: Any, batch: Any = None) -> Tensor:
    """Per sample, cross-entropy against labels drawn from the network's own answer: the true Fisher information.

    Classes lie on the last axis of the first output (Kunstner et al. 2019 say why labels are drawn, not taken).
    """
    logits = next(tensors_of(output)).float()
    flat = logits.reshape(-1, logits.shape[-1])
    generator = _generator(batch)
    labels = torch.multinomial(flat.detach().softmax(-1), 1, generator=generator)[:, 0]
    return F.cross_entropy(flat, labels, reduction="none").reshape(logits.shape[0], -1).sum(1)
