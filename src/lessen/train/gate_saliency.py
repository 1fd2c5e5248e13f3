"""How much a network's loss depends on each gate while all are open."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..data import Batch, Part
from ..errors import LessenError
from ..statistics.losses import error_of_outputs, sampled_labels
from .distill import first, is_classes
from .gates import Gates

_SAMPLES, _BATCH = 256, 8


def saliency(student: nn.Module, gates: Gates, part: Part) -> dict[str, Tensor]:
    """E[(dL/dz)^2] of each gate z at 1, [size] per group: what closing it would change (Molchanov et al. 2019, eq. 8).

    L is the cross entropy against labels drawn from the network's own answers, where these are classes; else a random
    projection of its outputs. So a network that its teacher has nothing to tell yet is told apart as well.

    Raises:
        LessenError: a gradient is not finite.
    """
    total = gates.open(0.0)
    weights = {n: student.get_parameter(n).detach() for n in gates.read}
    with torch.enable_grad():
        for batch in part.head(_SAMPLES).batches(_BATCH):
            opened = {n: v.requires_grad_() for n, v in gates.open(1.0).items()}
            gated = {n: gates.through(n, w, opened) for n, w in weights.items()}
            loss = _loss(functional_call(student, gated, batch.inputs), batch).sum()
            slopes = torch.autograd.grad(loss, list(opened.values()), allow_unused=True)
            for name, slope in zip(opened, slopes, strict=True):
                if slope is not None:
                    total[name] += slope.square()
    for name, found in total.items():
        if not bool(torch.isfinite(found).all()):
            raise LessenError("the gradient of its gates is not finite", where=name, mend="look for NaN in the data")
    return total


def _loss(output: Any, batch: Batch) -> Tensor:
    classes = batch.labels is not None and is_classes(first(output), batch.labels)
    return sampled_labels(first(output), batch) if classes else error_of_outputs(first(output), batch)
