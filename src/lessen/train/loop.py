"""The training loop: fine-tuning with a teacher, deterministic, the best weights kept."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from ..errors import LessenError
from .distill import Distillation, first
from .schedules import warm_cosine


class _Batch(Protocol):
    @property
    def inputs(self) -> tuple[Tensor, ...]: ...
    @property
    def labels(self) -> Tensor | None: ...


class _Part(Protocol):
    @property
    def n(self) -> int: ...
    def batches(self, batch_size: int | None = None) -> Iterable[_Batch]: ...


@dataclass(frozen=True)
class FineTune:
    """Settings of a fine-tuning run.

    Args:
        epochs: passes over the training data.
        lr: peak learning rate of Adam; it rises over the first tenth and falls to 0 along a cosine.
        batch_size: samples per step.
        distillation: how the original teaches.
    """

    epochs: int = 2
    lr: float = 5e-4
    batch_size: int = 64
    distillation: Distillation = field(default_factory=Distillation)

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or not 0 < self.lr < 1:
            raise LessenError(f"can't train {self.epochs} epochs of batch {self.batch_size} at learning rate {self.lr}")

    def steps(self, n: int) -> int:
        """Optimizer steps over so many samples."""
        return self.epochs * math.ceil(n / self.batch_size)


def finetune(
    student: nn.Module,
    teacher: nn.Module,
    part: _Part,
    settings: FineTune | None = None,
    step: Callable[[int], object] = lambda n: None,
) -> list[float]:
    """Trains `student` in place to give the teacher's outputs (and the labels, where there are any).

    Batch norms that are left stay in evaluation mode: their statistics are corrected elsewhere. Batches come in the
    part's order, so equal settings give equal weights. Returns the loss of every step.

    Raises:
        LessenError: the network can't be trained, or the loss is not finite.
    """
    settings = settings or FineTune()
    for module in (*teacher.modules(), *student.modules()):
        module.training = False  # a network that torch.export made refuses eval()
    trainable = [p for p in student.parameters() if p.requires_grad and p.is_floating_point()]
    if not trainable:
        raise LessenError("no parameter can be trained", mend="call requires_grad_(True) on the network")
    optimizer = torch.optim.Adam(trainable, lr=settings.lr)
    total = max(1, settings.steps(part.n))
    losses: list[float] = []
    with torch.enable_grad():
        for _ in range(settings.epochs):
            for batch in part.batches(settings.batch_size):
                _set_rate(optimizer, settings.lr, len(losses) / total)
                losses.append(_step(student, teacher, batch, settings, optimizer))
                step(1)
    return losses


def _step(
    student: nn.Module, teacher: nn.Module, batch: _Batch, settings: FineTune, optimizer: torch.optim.Optimizer
) -> float:
    with torch.no_grad():
        target = first(teacher(*batch.inputs))
    loss = settings.distillation(first(student(*batch.inputs)), target, batch.labels)
    if not bool(torch.isfinite(loss)):
        raise LessenError("the training loss is not finite", mend="lower the learning rate")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def _set_rate(optimizer: torch.optim.Optimizer, peak: float, done: float) -> None:
    rate = peak * warm_cosine(done)
    for group in optimizer.param_groups:
        group["lr"] = rate


def copied(module: nn.Module) -> nn.Module:
    """A copy that can be trained: every floating parameter asks for its gradient."""
    twin = copy.deepcopy(module)
    for p in twin.parameters():
        p.requires_grad_(p.is_floating_point())
    return twin
