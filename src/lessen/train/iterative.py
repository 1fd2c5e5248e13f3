"""`IMP`: iterative magnitude pruning, with fine-tuning, learning-rate rewinding or weight rewinding between rounds."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..errors import LessenError
from .distill import Distillation
from .masks import largest
from .method import Lesson, Trained
from .rule import Fixed
from .schedules import constant, geometric, warm_cosine
from .sparse import trainable, trained_sparse
from .sparsifier import Sparsifier

REWINDS = ("none", "rate", "weights")
_LAST_RATE = 0.1  # of the peak: plain fine-tuning goes on where the learning rate of a schedule ends


@dataclass(frozen=True)
class IMP(Sparsifier):
    """Prune a little, train, prune again: in every round the same share of the weights that are left goes.

    Between the rounds, by `rewind`:
    "none": fine-tuning at a tenth of the peak learning rate (Han et al. 2015);
    "rate": the whole learning-rate schedule again (Renda, Frankle & Carbin 2020, https://arxiv.org/abs/2003.02389);
    "weights": the survivors go back to the values they were handed in with, and the schedule starts again: the
    lottery ticket (Frankle & Carbin 2019, https://arxiv.org/abs/1803.03635; hand in the network as it was early in
    its training). The dense network is trained first, by the labels where there are any, and then teaches.

    Args:
        epochs: passes over the training data in each round.
        rounds: of pruning; 1 is one-shot pruning and fine-tuning.
        rewind: "none", "rate" or "weights".

    >>> sparser = lessen.apply(model, IMP(sparsity=0.9, epochs=1, rounds=4), train_data)  # doctest: +SKIP
    """

    epochs: int = 1
    rounds: int = 3
    rewind: str = "rate"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds < 1 or self.rewind not in REWINDS:
            raise LessenError(f"rounds={self.rounds!r}, rewind={self.rewind!r}", where="IMP",
                              mend="give at least one round, and rewind as one of " + ", ".join(REWINDS))  # fmt: skip

    def fit(self, student: nn.Module, lesson: Lesson) -> Trained:
        """Trains the student in place; see `Training.fit`."""
        layers, notes = trainable(student, lesson.layers)
        handed = copy.deepcopy(student.state_dict())
        losses: list[float] = []
        if self.rewind == "weights":
            lesson, first = self._dense(student, lesson)
            losses.extend(first)
        for number in range(1, self.rounds + 1):
            masks = largest(student, layers, geometric(number, self.rounds, self.sparsity))
            if self.rewind == "weights":
                student.load_state_dict(handed)
            losses.extend(self._round(student, replace(lesson, seed=lesson.seed + number), masks))
        return Trained(tuple(losses), {n: layers[n].to_matrix(m) for n, m in masks.items()}, notes=tuple(notes))

    def _dense(self, student: nn.Module, lesson: Lesson) -> tuple[Lesson, tuple[float, ...]]:
        """Trains the network whole; it is the teacher of the sparse ones."""
        taught = Distillation(0.0) if lesson.part.labelled else lesson.distillation
        whole = {n: torch.ones_like(student.get_parameter(n).detach()) for n in trainable(student, lesson.layers)[0]}
        made = trained_sparse(student, replace(lesson, distillation=taught), self.settings, Fixed(whole))
        return replace(lesson, teacher=copy.deepcopy(student).requires_grad_(False)), made.losses

    def _round(self, student: nn.Module, lesson: Lesson, masks: Mapping[str, Tensor]) -> tuple[float, ...]:
        settings, schedule = self.settings, warm_cosine
        if self.rewind == "none":
            settings, schedule = replace(settings, lr=self.lr * _LAST_RATE), constant
        return trained_sparse(student, lesson, settings, Fixed(masks), schedule).losses

    @classmethod
    def _offered(cls) -> Iterator[IMP]:
        for sparsity in (0.8, 0.9, 0.95):
            yield cls(sparsity)
