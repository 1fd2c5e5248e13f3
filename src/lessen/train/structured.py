"""What the methods with gates on structures share: gates are trained, closed units removed, the rest trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn

from ..errors import LessenError
from ..models.layer import Layer
from ..models.surgery import Shrunk, shrink_with_edits
from ..models.trace import trace
from .gates import Gates, Opened
from .loop import FineTune
from .method import Lesson, Trained
from .rule import Fixed, Rule, Weights
from .schedules import cubic, warm_cosine
from .sparse import trained_sparse
from .sparsifier import Sparsifier

_SETTLING = 0.6  # share of the epochs that the narrower network trains alone
_REACHED = 0.75  # share of the gates' training after which the budget no longer tightens


@dataclass(frozen=True)
class StructuredSparsifier(Sparsifier):
    """Settings of every method that learns which units (channels, neurons, heads) to keep.

    Args:
        sparsity: share of the layers' multiply-adds that goes, 0 <= s < 1; as little more as whole units allow.
        epochs: passes over the training data; the last three fifths of them, rounded, train what is left.
        lr: peak learning rate of Adam; it rises over the first tenth and falls to 0 along a cosine.
        batch_size: samples per step.
        multiple: what stays of a group is rounded up to a multiple of so many channels.
    """

    sparsity: float = 0.5
    multiple: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.multiple, bool) or not isinstance(self.multiple, int) or self.multiple < 1:
            raise LessenError(f"multiple={self.multiple!r}", where=type(self).__name__, mend="give 1 or more")

    def gate_rule(self, gates: Gates, student: nn.Module, lesson: Lesson) -> GateRule:
        """A fresh rule for one run."""
        raise NotImplementedError

    def fit(self, student: nn.Module, lesson: Lesson) -> Trained:
        """Trains the student with gates, closes some, and trains a narrower network: `Trained.module`.

        The student keeps its shapes; closed units are zeros in what reads them, so that it computes what the narrower
        network computes before that trains on.
        """
        inputs = next(iter(lesson.part.batches(2))).inputs
        gates = Gates(student, lesson.layers, inputs, self.multiple)
        gates.closing(gates.open(1.0), self.sparsity)  # before all the work: can so much go?
        rule = self.gate_rule(gates, student, lesson)
        last = min(round(_SETTLING * self.epochs), self.epochs - 1)
        start = 1 - last / self.epochs
        shaping = FineTune(self.epochs - last, self.lr, self.batch_size)
        told = trained_sparse(student, lesson, shaping, rule, lambda done: warm_cosine(start * done))
        made = _shrunk(student, gates, rule.closed)
        losses = told.losses
        if last:
            taught = replace(lesson, layers=trace(made.model, inputs).layers)
            settling = FineTune(last, self.lr, self.batch_size)
            more = trained_sparse(
                made.model, taught, settling, Fixed({}), lambda done: warm_cosine(start + (1 - start) * done)
            )
            losses = (*losses, *more.losses)
        notes = [f"{name} was left as it is: {why}" for name, why in gates.left.items()]
        return Trained(losses, notes=(*told.notes, *notes), module=made.model, edits=made.edits, removed=rule.closed)

    @classmethod
    def _offered(cls) -> Iterator[Self]:
        for sparsity in (0.3, 0.5, 0.7):
            yield cls(sparsity=sparsity)


def _shrunk(student: nn.Module, gates: Gates, closed: Mapping[str, tuple[int, ...]]) -> Shrunk:
    made = shrink_with_edits(student, {n: list(u) for n, u in closed.items()}, gates.inputs, gates.grouping)
    for p in made.model.parameters():
        p.requires_grad_(p.is_floating_point())
    return made


class GateRule(Rule):
    """A rule that shapes gates instead of weights; `closed` are the units that go, once that is settled."""

    def __init__(self, gates: Gates, sparsity: float) -> None:
        super().__init__(sparsity, until=1.0)
        self.gates, self.closed = gates, dict[str, tuple[int, ...]]()

    def watched(self, student: nn.Module, layers: Mapping[str, Layer]) -> Iterable[str]:
        return self.gates.read

    def allowed(self, done: float) -> float:
        """Share of the multiply-adds that may be left by now."""
        return 1 - cubic(done / _REACHED, self.sparsity)

    def opened(self) -> Opened:
        """How far each gate is open; differentiable in what is learned."""
        raise NotImplementedError

    def scores(self) -> Opened:
        """The higher, the more a unit should stay."""
        raise NotImplementedError

    def effective(self, name: str, weight: Tensor) -> Tensor:
        return self.gates.through(name, weight, self.opened())

    @torch.no_grad()
    def masks(self, weights: Weights) -> dict[str, Tensor]:
        self.closed = self.gates.closing(self.scores(), self.sparsity)
        return self.gates.masks(weights, self.closed)
