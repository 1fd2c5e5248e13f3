"""What the sparse training methods share: their settings, and the way from these to a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from torch import nn

from ..prune.mask import check_sparsity
from .loop import FineTune
from .method import Lesson, Trained
from .rule import Rule
from .sparse import trained_sparse


@dataclass(frozen=True)
class Sparsifier:
    """Settings of every method that makes a network sparse while it trains.

    Args:
        sparsity: share of the weights that is exactly zero at the end, 0 <= s < 1, over all layers together.
        epochs: passes over the training data.
        lr: peak learning rate of Adam; it rises over the first tenth and falls to 0 along a cosine.
        batch_size: samples per step.
    """

    sparsity: float = 0.9
    epochs: int = 3
    lr: float = 1e-3
    batch_size: int = 64

    def __post_init__(self) -> None:
        check_sparsity(self.sparsity, type(self).__name__)
        _ = self.settings

    @property
    def settings(self) -> FineTune:
        return FineTune(self.epochs, self.lr, self.batch_size)

    def rule(self) -> Rule:
        """A fresh rule for one run."""
        raise NotImplementedError

    def fit(self, student: nn.Module, lesson: Lesson) -> Trained:
        """Trains the student in place; see `Training.fit`."""
        return trained_sparse(student, lesson, self.settings, self.rule())

    @classmethod
    def offers(cls) -> tuple[Self, ...]:
        """Medium to heavy."""
        return tuple(cls._offered())

    @classmethod
    def _offered(cls) -> Iterator[Self]:
        for sparsity in (0.8, 0.9, 0.95):
            yield cls(sparsity=sparsity)
