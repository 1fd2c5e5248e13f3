"""Distillation: the compressed network learns the outputs of the original."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ..errors import LessenError


@dataclass(frozen=True)
class Distillation:
    """(1 - alpha) * task loss + alpha * T^2 * KL(teacher || student)  (Hinton, Vinyals, Dean 2015, sec. 2).

    Outputs that are not class scores (regression, embeddings) are matched by squared error relative to the
    teacher's variance. Without labels alpha counts as 1.

    Args:
        alpha: share of the teacher, 0 to 1.
        temperature: T, above 0.
    """

    alpha: float = 0.9
    temperature: float = 2.0

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1 or not self.temperature > 0:
            raise LessenError(f"alpha {self.alpha} must lie in [0, 1] and temperature {self.temperature} above 0")

    def __call__(
        self, student: Tensor, teacher: Tensor, labels: Tensor | None, spread: Tensor | None = None
    ) -> Tensor:  # fmt: skip
        """A scalar loss; `student` and `teacher` [batch, ...], `labels` [batch] classes or the outputs' shape.

        `spread` is the variance that squared errors are relative to; None takes that of these outputs.
        """
        taught = self._taught(student, teacher, labels, spread)
        if labels is None or self.alpha == 1:
            return taught
        return (1 - self.alpha) * task_loss(student, labels) + self.alpha * taught

    def _taught(self, student: Tensor, teacher: Tensor, labels: Tensor | None, spread: Tensor | None) -> Tensor:
        if labels is not None and is_classes(teacher, labels):
            T = self.temperature
            p, q = F.log_softmax(teacher.flatten(0, -2) / T, -1), F.log_softmax(student.flatten(0, -2) / T, -1)
            return F.kl_div(q, p, log_target=True, reduction="batchmean") * T * T
        return F.mse_loss(student, teacher) / (teacher.var() if spread is None else spread).clamp_min(1e-8)


def is_classes(outputs: Tensor, labels: Tensor) -> bool:
    """Whether the outputs are scores of classes (last dimension) that integer labels name."""
    return not labels.is_floating_point() and outputs.ndim == labels.ndim + 1 and outputs.shape[-1] > 1


def task_loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy for classes, mean squared error for anything else."""
    if is_classes(outputs, labels):
        return F.cross_entropy(outputs.flatten(0, -2), labels.flatten().long())
    return F.mse_loss(outputs.reshape(labels.shape).float(), labels.float())


def first(output: object) -> Tensor:
    """The main output of a network that may return a tuple, a list, a dict or a data class of tensors."""
    if isinstance(output, Tensor):
        return output
    values = list(output.values()) if hasattr(output, "values") else list(output)  # type: ignore[call-overload]
    return first(next(v for v in values if v is not None))
