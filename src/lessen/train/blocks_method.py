"""What methods that learn the rounding of a network share: settings, starts, the way through the units."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import torch
from torch import nn

from ..codings import Coding, Grid
from ..data import Batch
from ..errors import LessenError
from ..models.layer import Layer
from ..models.put import put_matrix
from ..quantize import HalfSteps, Uniform
from ..statistics import Statistics
from ..statistics.still import still
from .blocks_learn import Problem, Rounded, learn, settle
from .blocks_seen import importance, seen
from .blocks_units import Unit, units_of
from .method import Lesson
from .qat import Quantized
from .qat_start import Start, rounded

SAMPLES, BATCH = 512, 32  # calibration samples that the units see
_ASIDE = 4  # one in so many batches judges and is not learned from
_BACKWARD = 8  # batches that tell how much each output matters


@dataclass(frozen=True)
class Reconstruction:
    """Settings of every method that learns the rounding on calibration samples, without labels.

    Args:
        bits: of the weights, 2 to 8.
        per: one step for each output "channel", for the whole "tensor", or for groups of this many columns.
        steps: of Adam, for each unit.
        lr: learning rate.
        fisher: weigh each output by how much the network's answer depends on it.
    """

    folds: ClassVar[bool] = True  # batch norms are folded before
    blocks: ClassVar[bool]

    bits: int = 4
    per: str | int = "channel"
    steps: int = 300
    lr: float = 0.05
    fisher: bool = True

    def __post_init__(self) -> None:
        if not (isinstance(self.bits, int) and not isinstance(self.bits, bool) and 2 <= self.bits <= 8):
            raise LessenError(f"bits={self.bits!r}", where=type(self).__name__, mend="give 2 to 8 bits")
        if not (isinstance(self.steps, int) and self.steps >= 1 and 0 < self.lr < 1):
            raise LessenError(f"steps={self.steps!r}, lr={self.lr!r}", where=type(self).__name__,
                              mend="give at least 1 step and a learning rate between 0 and 1")  # fmt: skip
        _ = self.grid

    @property
    def grid(self) -> Uniform:
        """How weights are rounded before anything is learned."""
        return Uniform(self.bits, self.per)

    @property
    def activations(self) -> None:
        """Inputs of layers stay in float."""

    def fit(self, student: nn.Module, lesson: Lesson) -> Quantized:
        """Rounds `student` in place; its weights decode from the codings returned, to the bit."""
        model, layers = copy.deepcopy(student), tuple(replace(x, weight=x.weight.clone()) for x in lesson.layers)
        start = rounded(student, layers, lesson.part, self.grid)
        return self.fit_from(start, student, replace(lesson, teacher=model))

    def fit_from(self, start: Start, student: nn.Module, lesson: Lesson) -> Quantized:
        """`fit` for a network that is coded already; `lesson.teacher` has the same modules, in float.

        Only grids are learned; `bits` and `per` don't matter then.
        """
        batches = list(lesson.part.head(SAMPLES).batches(BATCH))
        layers = {n: x for n, x in start.layers.items() if isinstance(start.codings.get(n), Grid)}
        with still(student), still(lesson.teacher):
            units, left = units_of(student, next(lesson.part.batches(2)).inputs, tuple(layers.values()), self.blocks)
            made = _Run(self, student, lesson, start.codings, batches)
            for unit in units:
                made.unit(unit, layers)
        notes = tuple(f"{n}: it runs several times or in no module of its own, so its rounding was not learned"
                      for n in left)  # fmt: skip
        told = Quantized((), {}, {**start.codings, **made.codings}, (*notes, *made.notes))
        student.quantized = told  # type: ignore[assignment]
        return told

    @classmethod
    def offers(cls) -> tuple[Self, ...]:
        """The numbers of bits where rounding has something to learn, the mildest first."""
        return (cls(bits=4), cls(bits=3), cls(bits=2))


class _Run:
    """The network under way."""

    def __init__(
        self, method: Reconstruction, student: nn.Module, lesson: Lesson, start: Mapping[str, Coding],
        batches: list[Batch],
    ) -> None:  # fmt: skip
        self.method, self.student, self.lesson, self.start = method, student, lesson, start
        self.batches, self.codings, self.notes = batches, dict[str, Coding](), list[str]()

    def unit(self, unit: Unit, layers: Mapping[str, Layer]) -> None:
        """Learns the rounding of one unit, and puts what is best on the samples set aside in place."""
        problem = self._problem(unit, layers)
        second = Rounded({n: g for n in unit.layers if isinstance(g := self.start[n], Grid)})
        tried = {"second order": second, "nearest": Rounded(_nearest(problem.layers, second.codings))}
        start = min(tried.values(), key=problem.error)
        steps, tell = self.method.steps, self.lesson.step
        tried["learned"] = learn(problem, start, steps, self.method.lr, tell)
        best = min(tried.values(), key=problem.error)
        tried["settled"] = settle(problem, best, max(1, steps // 3), tell)
        errors = {how: problem.error(made) for how, made in tried.items()}
        figures = ", ".join(f"{how} {error:.3g}" for how, error in errors.items())
        self.notes.append(f"{', '.join(unit.layers)}: error {figures}")
        self._put(tried[min(errors, key=lambda how: errors[how])], layers)

    def _problem(self, unit: Unit, layers: Mapping[str, Layer]) -> Problem:
        at = seen(self.student, self.lesson.teacher, unit, self.batches)
        train = [s for n, s in enumerate(at) if n % _ASIDE] or at
        weights = importance(self.lesson.teacher, unit, self.batches[:_BACKWARD]) if self.method.fisher else None
        return Problem(self.student, unit, {n: layers[n] for n in unit.layers}, train, at[::_ASIDE], weights)

    @torch.no_grad()
    def _put(self, made: Rounded, layers: Mapping[str, Layer]) -> None:
        for name, coding in made.codings.items():
            put_matrix(self.student, layers[name], coding.decode())
        for name, bias in made.biases.items():
            self.student.get_parameter(name).copy_(bias)
        self.codings |= made.codings


def _nearest(layers: Mapping[str, Layer], known: Mapping[str, Grid]) -> dict[str, Grid]:
    """Grids of the same kind, without any feedback of errors."""
    return {name: _kind(grid).encode(layers[name], Statistics()) for name, grid in known.items()}


def _kind(grid: Grid) -> HalfSteps | Uniform:
    if grid.odd:
        return HalfSteps(grid.bits, _per(grid), feedback=False)
    return Uniform(grid.bits, _per(grid), grid.symmetric, feedback=False)


def _per(grid: Grid) -> str | int:
    if grid.scale.shape[1] > 1:
        return grid.group_size
    return "tensor" if grid.scale.shape[0] < grid.shape[0] else "channel"
