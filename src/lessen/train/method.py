"""What a training method is: a frozen dataclass whose type is the algorithm's name, and what it works with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from ..codings import Coding
from ..data import Part
from ..models.layer import Layer
from ..models.surgery import Edit, Setting
from .distill import Distillation


@dataclass(frozen=True, eq=False)
class Lesson:
    """All that a training method may look at besides the network that it trains.

    Args:
        teacher: the original network, in evaluation mode; never changed.
        layers: the student's layers that may be worked on, from its trace.
        part: training samples.
        check: samples that no step trains on, for schedules that look at a loss; None where there are none.
        distillation: how teacher and labels share in the loss.
        seed: of every private generator (order of the samples, noise, random growth).
        step: told how many optimizer steps were made, for progress.
    """

    teacher: nn.Module
    layers: tuple[Layer, ...]
    part: Part
    check: Part | None = None
    distillation: Distillation = field(default_factory=Distillation)
    seed: int = 0
    step: Callable[[int], object] = lambda n: None


@dataclass(frozen=True, eq=False)
class Trained:
    """What a training run leaves besides the weights, which are in the student.

    Args:
        losses: of every step.
        masks: layer name -> bool [rows, columns], True where a weight survives; the others are exact zeros.
        codings: layer name -> what its weight decodes from, where training settled that (quantization-aware
            training).
        notes: what was left out or could not be done, and why.
        module: a network with other shapes that takes the student's place; None where the shapes are the same.
        edits: what makes these shapes of the original's (`models.surgery.apply_edits`).
        removed: group -> the units that are gone.
    """

    losses: tuple[float, ...] = ()
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    codings: Mapping[str, Coding] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    module: nn.Module | None = None
    edits: tuple[Edit | Setting, ...] = ()
    removed: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def sparsity(self) -> float:
        """Share of zeros among the weights of all masked layers; 0 where nothing was masked."""
        total = sum(m.numel() for m in self.masks.values())
        return 1 - sum(int(m.sum()) for m in self.masks.values()) / total if total else 0.0


@runtime_checkable
class Training(Protocol):
    """One way to turn a network into a better or a sparser one by training it.

    Works alone in one line, `lessen.apply(model, RigL(sparsity=0.9, epochs=3), train_data)`, and in the chooser, where
    the trained network is a variant with its own statistics and its own curve.
    """

    def fit(self, student: nn.Module, lesson: Lesson) -> Trained:
        """Trains `student` in place; equal networks, lessons and settings give equal weights.

        The student is a copy in evaluation mode whose parameters that may be trained ask for their gradients. On
        return its parameters are plain again (no parametrization is left) and hold the last weights; where the method
        removes units, what is to be used is `Trained.module`.

        Raises:
            LessenError: nothing can be trained, or a loss or gradient is not finite (the layer is named).
        """
        ...

    @classmethod
    def offers(cls) -> tuple[Training, ...]:
        """The settings worth trying when the chooser is free to choose, the mildest first."""
        ...
