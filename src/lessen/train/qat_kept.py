"""The best state of a network in training, judged on samples that no step trains on; its start is one of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..data import Batch, Part
from .distill import first
from .method import Lesson

_SHARE, _MOST, _FEWEST = 10, 1000, 16  # one sample in so many is set aside, at most, at least
_PIECE = 8  # samples whose loss is looked at together


def set_aside(lesson: Lesson) -> Lesson:
    """The lesson with samples to judge by: every tenth of its own where it came without, or of few samples all."""
    if lesson.check is not None:
        return lesson
    part = lesson.part
    every = max(_SHARE, -(-part.n // _MOST))
    if part.n < _SHARE * _FEWEST:
        return replace(lesson, check=part)
    aside = [torch.arange(block.n) % every == every - 1 for block in part.blocks]
    return replace(lesson, part=_rows(part, [~rows for rows in aside]), check=_rows(part, aside))


def _rows(part: Part, chosen: list[Tensor]) -> Part:
    """The chosen samples of each block; a batch that can't be cut is trained on."""
    cut = [(block, rows) for block, rows in zip(part.blocks, chosen, strict=True) if bool(rows.any())]
    return replace(part, blocks=tuple(block.take(rows.nonzero().flatten()) for block, rows in cut))


class Kept:
    """The parameters under which the student answered most like its lesson wants.

    Training on few samples, or on a start that second moments have made good already, can end worse than it began. The
    start is left only for a state that is better by more than one standard error over the samples set aside.

    Args:
        student: in training; its parameters that ask for gradients are kept.
        lesson: `check` holds the samples to judge by, `distillation` is the judge.
    """

    def __init__(self, student: nn.Module, lesson: Lesson) -> None:
        self.student, self.lesson = student, lesson
        self.parameters = [p for p in student.parameters() if p.requires_grad]
        self.looks: list[Tensor] = []  # losses of one state, [pieces]
        self._best, self._wanted = (0, list[Tensor]()), list[Tensor]()

    @property
    def told(self) -> tuple[str, ...]:
        """A note where the last state was not the best one."""
        last, best = len(self.looks) - 1, self._best[0]
        if best == last:
            return ()
        when = f"what came after epoch {best} of {last}" if best else "training"
        return (f"{when} made the loss on samples set aside no smaller; the state before it is kept",)

    @torch.no_grad()
    def look(self) -> None:
        """Judge the student as it is now, and keep its parameters if they are the best so far."""
        self.looks.append(self._losses())
        if len(self.looks) == 1 or self._better(self.looks[-1]):
            self._best = (len(self.looks) - 1, self._copy())

    @torch.no_grad()
    def restore(self) -> None:
        """The best parameters back into the student."""
        for p, kept in zip(self.parameters, self._best[1], strict=True):
            p.copy_(kept)

    def _better(self, losses: Tensor) -> bool:
        won = self.looks[0] - losses
        sure = float(won.mean()) > (float(won.std() / len(won) ** 0.5) if len(won) > 1 else 0.0)
        return sure and float(losses.mean()) < float(self.looks[self._best[0]].mean())

    def _copy(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.parameters]

    def _losses(self) -> Tensor:
        """Of the student, in pieces of a few samples: enough for the variance that some losses are measured by."""
        assert self.lesson.check is not None
        found: list[Tensor] = []
        with torch.autocast("cpu", enabled=False):
            for i, batch in enumerate(self.lesson.check.batches()):
                rows = (first(self.student(*batch.inputs)), self._taught(i, batch), batch.labels)
                found += [self.lesson.distillation(*piece) for piece in _pieces(*rows, batch.n)]
        return torch.stack(found).double()

    def _taught(self, i: int, batch: Batch) -> Tensor:
        """What the teacher says of batch number i; asked once."""
        if i == len(self._wanted):
            self._wanted.append(first(self.lesson.teacher(*batch.inputs)))
        return self._wanted[i]


def _pieces(
    student: Tensor, teacher: Tensor, labels: Tensor | None, n: int
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Outputs of equally many samples each, at most twice as many; all at once where they do not lie by samples."""
    if any(t is not None and (t.ndim == 0 or len(t) != n) for t in (student, teacher, labels)):
        yield student, teacher, labels
        return
    count = max(1, n // _PIECE)
    cut = (t.tensor_split(count) if t is not None else [None] * count for t in (student, teacher, labels))
    yield from zip(*cut, strict=True)
