"""Which state of a network in training is kept, judged on samples that no step trains on; its start is one of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..data import Batch, Part
from .distill import first
from .method import Lesson

_FEWEST, _MOST = 128, 1000  # samples to judge by
_SHARE, _LARGEST = 10, 5  # one sample in so many is set aside; at most one in so many, where that makes too few
_ENOUGH = 160  # samples; of fewer none can be spared
_SURE = 1.0  # standard errors


def set_aside(lesson: Lesson) -> Lesson:
    """The lesson with samples to judge by, those of its own where it came without.

    Every tenth is set aside, up to every fifth where that makes less than 128, and never more than 1,000. Of fewer than
    160 none is: then the judge sees what was trained on.
    """
    if lesson.check is not None:
        return lesson
    part = lesson.part
    if part.n < _ENOUGH:
        return replace(lesson, check=part)
    every = max(min(_SHARE, part.n // _FEWEST), _LARGEST, -(-part.n // _MOST))
    aside = [torch.arange(block.n) % every == every - 1 for block in part.blocks]
    return replace(lesson, part=_rows(part, [~rows for rows in aside]), check=_rows(part, aside))


def _rows(part: Part, chosen: list[Tensor]) -> Part:
    """The chosen samples of each block; a batch that can't be cut is trained on."""
    cut = [(block, rows) for block, rows in zip(part.blocks, chosen, strict=True) if bool(rows.any())]
    return replace(part, blocks=tuple(block.take(rows.nonzero().flatten()) for block, rows in cut))


class Kept:
    """Which of its states a student is left in: its start, its end, or one in between.

    Training on few samples, or from a start that second moments have made good already, can end worse than it began.
    The end is what counts, since a learning rate of 0 leaves the least noise; it gives way to the state with the least
    mean loss only if that was better by a standard error of the difference, sample by sample, or if the end is not
    better than the start by as much and that one is; where neither is, the start is left as it was. (The least of many
    noisy means is mostly luck.)

    Args:
        student: in training; its parameters that ask for gradients are kept.
        lesson: `check` holds the samples to judge by, `distillation` is the judge.
    """

    def __init__(self, student: nn.Module, lesson: Lesson) -> None:
        self.student, self.lesson = student, lesson
        self.parameters = [p for p in student.parameters() if p.requires_grad]
        self.looks: list[Tensor] = []  # losses of one state, [samples]
        self._held: dict[int, list[Tensor]] = {}  # parameters of the start and of the least mean loss, by look
        self._wanted: list[Tensor] = []
        self.chosen = 0

    @property
    def told(self) -> tuple[str, ...]:
        """A note where the end is not what is kept."""
        last = len(self.looks) - 1
        if self.chosen == last:
            return ()
        if not self.chosen:
            return ("training made the loss on samples set aside no smaller; the state before it is kept",)
        return (f"after epoch {self.chosen} of {last} the loss on samples set aside grew; the state before it is kept",)

    @torch.no_grad()
    def look(self) -> None:
        """Judge the student as it is now, and remember its parameters if it may be wanted in this state."""
        self.looks.append(self._losses())
        now = len(self.looks) - 1
        if now == 0 or now == self._least():
            self._held = {i: held for i, held in self._held.items() if i == 0}
            self._held[now] = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def restore(self) -> None:
        """The parameters of the state that is to be kept back into the student."""
        last, least = len(self.looks) - 1, self._least()
        end = least if self._surely(least, last) else last
        self.chosen = next((state for state in (end, least) if self._surely(state, 0)), 0)
        for p, kept in zip(self.parameters, self._held.get(self.chosen, self.parameters), strict=True):
            p.copy_(kept)

    def _least(self) -> int:
        """The state after the start with the least mean loss."""
        means = torch.stack(self.looks[1:] or self.looks).mean(1).nan_to_num(torch.inf)
        return int(means.argmin()) + (len(self.looks) > 1)

    def _surely(self, better: int, than: int) -> bool:
        """Whether one state is better than another by more than what may be chance."""
        if bool(self.looks[than].isnan().any()):
            return not bool(self.looks[better].isnan().any())
        won = self.looks[than] - self.looks[better]
        return float(won.mean()) > (_SURE * float(won.std() / len(won) ** 0.5) if len(won) > 1 else 0.0)

    def _losses(self) -> Tensor:
        """Of the student, sample by sample."""
        assert self.lesson.check is not None
        with torch.autocast("cpu", enabled=False):
            rows = [
                (first(self.student(*batch.inputs)), self._taught(i, batch), batch.labels, batch.n)
                for i, batch in enumerate(self.lesson.check.batches())
            ]
            spread = torch.cat([wanted.flatten() for wanted in self._wanted]).float().var()
            judge = self.lesson.distillation
            return torch.stack([judge(*of, spread) for row in rows for of in _samples(*row)]).double()

    def _taught(self, i: int, batch: Batch) -> Tensor:
        """What the teacher says of batch number i; asked once."""
        if i == len(self._wanted):
            self._wanted.append(first(self.lesson.teacher(*batch.inputs)))
        return self._wanted[i]


def _samples(
    student: Tensor, teacher: Tensor, labels: Tensor | None, n: int
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Outputs one sample at a time; all at once where they do not lie by samples."""
    if any(t is not None and (t.ndim == 0 or len(t) != n) for t in (student, teacher, labels)):
        yield student, teacher, labels
        return
    cut = (t.split(1) if t is not None else [None] * n for t in (student, teacher, labels))
    yield from zip(*cut, strict=True)
