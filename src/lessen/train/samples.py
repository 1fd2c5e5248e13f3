"""Batches of training samples in random order, by a private generator."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch

from ..data import Batch, Part


def shuffled(part: Part, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
    """One epoch: every sample once; samples of equal shape lie in a batch together, as they do in `part`."""
    picks = [(block, rows) for block in part.blocks
             for rows in torch.randperm(block.n, generator=generator).split(batch_size)]  # fmt: skip
    for i in torch.randperm(len(picks), generator=generator).tolist():
        block, rows = picks[i]
        batch = block.take(rows)
        yield batch if part.finish is None else replace(batch, inputs=part.finish(batch.inputs))


def steps_of(part: Part, batch_size: int) -> int:
    """Optimizer steps of one epoch of `shuffled`."""
    return sum(math.ceil(block.n / batch_size) for block in part.blocks)
