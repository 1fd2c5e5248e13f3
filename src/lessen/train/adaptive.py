"""`Adaptive`: prunes in steps whose size follows the measured loss, and stops at the floor that was promised."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..data import Part
from ..errors import LessenError
from ..models.layer import Layer
from .distill import Distillation, first, is_classes
from .masks import largest
from .method import Lesson, Trained
from .rule import Fixed
from .sparse import trainable, trained_sparse
from .sparsifier import Sparsifier

_FIRST, _LEAST, _MOST = 0.5, 0.03, 0.7  # shares of the weights that are left that one step may take


@dataclass(frozen=True)
class Adaptive(Sparsifier):
    """As sparse as a promise allows: prune a share of the rest, train one epoch, look at unseen samples, decide.

    A step that keeps the promise stands, and the next one takes more where much of the promise is left (proportional
    control of what a step costs); one that breaks it is undone and a smaller one is tried. The end is the sparsest
    network that kept the promise. The largest weights of all layers together stay, as in `IMP`.

    What is lost is the share of wrong answers (or, without classes, the squared error against the original as a share
    of its variance) on samples that no step trains on, less the original's.

    Args:
        sparsity: where it stops at the latest.
        epochs: most passes over the training data in all.
        max_drop: points (hundredths) that may be lost.

    >>> sparser = lessen.apply(model, Adaptive(max_drop=0.5, epochs=8), train_data)  # doctest: +SKIP
    """

    sparsity: float = 0.99
    epochs: int = 10
    max_drop: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.max_drop, bool) or not isinstance(self.max_drop, (int, float)) or not self.max_drop >= 0:
            raise LessenError(f"max_drop={self.max_drop!r}", where="Adaptive", mend="give points from 0 up (0.5)")

    def fit(self, student: nn.Module, lesson: Lesson) -> Trained:
        """Trains the student in place; see `Training.fit`. Without samples to look at: `LessenError`."""
        if lesson.check is None or not lesson.check.n:
            raise LessenError("there are no samples to measure the loss on", where="Adaptive",
                              mend="give more training data: a part of it is kept for that")  # fmt: skip
        layers, notes = trainable(student, lesson.layers)
        run = _Search(self, student, lesson, layers)
        while run.next_step():
            pass
        student.load_state_dict(run.best)
        masks = {n: layers[n].to_matrix(m) for n, m in run.masks.items()}
        return Trained(tuple(run.losses), masks, notes=(*notes, *run.notes))

    @classmethod
    def offers(cls) -> tuple[Adaptive, ...]:
        """One: it finds the sparsity itself."""
        return (cls(),)


class _Search:
    """Where the search stands: the sparsest network that kept the promise, and the size of the next step."""

    def __init__(self, settings: Adaptive, student: nn.Module, lesson: Lesson, layers: Mapping[str, Layer]) -> None:
        assert lesson.check is not None
        self.settings, self.student, self.lesson, self.layers = settings, student, lesson, layers
        self.check = lesson.check
        self.floor = _wrong(lesson.teacher, lesson, self.check) + settings.max_drop / 100
        self.best: dict[str, Any] = copy.deepcopy(student.state_dict())
        self.masks = {n: student.get_parameter(n).detach() != 0 for n in layers}
        self.left, self.share, self.rounds = 1.0, _FIRST, 0
        self.before = self.start = self.floor - settings.max_drop / 100
        self.losses: list[float] = []
        self.notes: list[str] = []

    def next_step(self) -> bool:
        """One step tried; False when the search is over."""
        least = 1 - self.settings.sparsity
        if self.rounds >= self.settings.epochs or self.share < _LEAST or self.left <= least:
            return False
        left = max(self.left * (1 - self.share), least)
        masks = largest(self.student, self.layers, 1 - left)
        lost = self._trained(masks)
        held = lost <= self.floor
        self.notes.append(f"sparsity {1 - left:.4f}: {100 * (lost - self.start):+.2f} points, "
                          + ("kept" if held else "undone"))  # fmt: skip
        if held:
            self.best, self.masks, self.left = copy.deepcopy(self.student.state_dict()), masks, left
            self.share = min(_MOST, self.share * _gain(self.floor - lost, lost - self.before))
            self.before = lost
        else:
            self.student.load_state_dict(self.best)
            self.share /= 2
        return True

    def _trained(self, masks: Mapping[str, Tensor]) -> float:
        self.rounds += 1
        settings = replace(self.settings.settings, epochs=1)
        lesson = replace(self.lesson, seed=self.lesson.seed + self.rounds)
        self.losses.extend(trained_sparse(self.student, lesson, settings, Fixed(masks)).losses)
        return _wrong(self.student, self.lesson, self.check)


def _gain(room: float, spent: float) -> float:
    """By how much the next step may be larger than the last: what is left of the promise over what that one cost."""
    return min(1.5, max(0.5, room / spent)) if spent > 0 else 1.5


@torch.no_grad()
def _wrong(network: nn.Module, lesson: Lesson, part: Part) -> float:
    """Share of wrong answers; without classes, squared error against the teacher over its variance."""
    total, n = 0.0, 0
    for batch in part.batches(256):
        given = first(network(*batch.inputs))
        if batch.labels is not None and is_classes(given, batch.labels):
            total += float((given.argmax(-1) != batch.labels).double().mean()) * batch.n
        else:
            total += float(Distillation(1.0)(given, first(lesson.teacher(*batch.inputs)), None)) * batch.n
        n += batch.n
    return total / n
