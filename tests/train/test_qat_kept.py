"""What quantization-aware training keeps: the best of its states on samples that it does not train on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lessen.data import Batch, Part, load_data
from lessen.train import Distillation
from lessen.train.method import Lesson
from lessen.train.qat_kept import Kept, set_aside

GOAL = torch.tensor([[1.0, -1.0]])


class Shift(nn.Module):
    """x + b."""

    def __init__(self, b: float) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.tensor(b))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b


def part(n: int) -> Part:
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(0)).cumsum(0)
    return load_data({"calibration": x, "validation": x[:1], "test": x[:1]}).calibration


def lesson(n: int, check: Part | None = None) -> Lesson:
    return Lesson(Shift(0.0), (), part(n), check, Distillation(alpha=1))


def rows(part: Part) -> set[tuple[float, ...]]:
    return {tuple(x.tolist()) for b in part.batches() for x in b.inputs[0]}


@pytest.mark.parametrize(("n", "aside"), [(160, 32), (512, 102), (1005, 143), (1300, 130), (20000, 1000)])
def test_samples_to_judge_by_are_set_aside_and_not_trained_on(n: int, aside: int) -> None:
    made = set_aside(lesson(n))
    assert made.check is not None and made.check.n == aside and made.part.n == n - aside
    assert not rows(made.part) & rows(made.check) and rows(made.part) | rows(made.check) == rows(part(n))


def test_samples_that_are_given_to_judge_by_are_taken_and_few_are_all_used() -> None:
    given = lesson(200, part(30))
    assert set_aside(given) is given
    few = set_aside(lesson(159))
    assert few.check is few.part and few.part.n == 159


def test_samples_that_lie_together_for_good_are_trained_on() -> None:
    x = torch.zeros(400, 2)
    whole = Batch((torch.zeros(3), torch.zeros(2, 2)), whole=True)
    made = set_aside(Lesson(Shift(0.0), (), Part("calibration", (whole, Batch((x,))))))
    assert made.check is not None and (made.part.n, made.check.n) == (321, 80)
    assert made.part.blocks[0].whole and not any(b.whole for b in made.check.blocks)


@pytest.mark.parametrize(
    ("states", "best"),
    [((3.0, 2.0, 1.0), 1.0), ((3.0, 1.0, 2.0), 1.0), ((1.0, 2.0, 3.0), 1.0), ((1.0, float("nan")), 1.0)],
)
def test_the_best_state_is_restored_and_others_are_told(states: tuple[float, ...], best: float) -> None:
    student = Shift(0.0)
    kept = Kept(student, lesson(64, part(64)))
    for state in states:
        with torch.no_grad():
            student.b.fill_(state)
        kept.look()
    kept.restore()
    assert student.b.item() == best and bool(kept.told) == (states.index(best) < len(states) - 1)


class Uneven(Shift):
    """The loss of a few samples at `b` falls, as that of the others rises, by a little more in the mean."""

    def __init__(self, few: int) -> None:
        super().__init__(0.0)
        self.few = few

    def forward(self, x: Tensor) -> Tensor:
        gains = (torch.arange(len(x)) < self.few)[:, None]
        return x + torch.where(gains, 3.0 - 3.0 * self.b, 0.5 + self.b)


def looked(student: Shift, judged: Part, states: tuple[float, ...]) -> Kept:
    kept = Kept(student, lesson(64, judged))
    for state in states:
        with torch.no_grad():
            student.b.fill_(state)
        kept.look()
    kept.restore()
    return kept


def alike(n: int) -> Part:
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(0))
    return Part("calibration", (Batch((x,)),), n)


def test_a_start_is_not_left_for_what_may_be_chance() -> None:
    """One sample in eight gains much, the others lose a little: better in the mean, by less than a standard error."""
    student = Uneven(8)
    kept = looked(student, alike(64), (0.0, 0.4))
    gain = kept.looks[0] - kept.looks[1]
    assert 0 < float(gain.mean()) < float(gain.std()) / 8
    assert student.b.item() == 0.0 and kept.chosen == 0


def test_the_end_is_not_left_for_what_may_be_chance_either() -> None:
    """A state before it has the least mean loss, by less than a standard error; both are far better than the start."""
    student = Uneven(20)
    kept = looked(student, alike(64), (0.0, 0.7, 0.8))
    gain = kept.looks[2] - kept.looks[1]
    assert 0 < float(gain.mean()) < float(gain.std()) / 8
    assert student.b.item() == pytest.approx(0.8) and kept.chosen == 2 and not kept.told


class Told(Kept):
    """Does not ask the student; `middle` is the loss between start and end."""

    middle = 0.0

    def _losses(self) -> Tensor:
        signs = torch.tensor([1.0, -1.0]).repeat(32)
        return (torch.ones(64), self.middle * torch.ones(64), 0.95 + signs)[len(self.looks)].double()


@pytest.mark.parametrize(("middle", "chosen"), [(0.9, 1), (1.01, 0)])
def test_where_the_end_is_too_noisy_a_state_that_surely_beats_the_start_is_kept(middle: float, chosen: int) -> None:
    """The end is better than the start by less than a standard error; the middle is no surer than the end."""
    student = Shift(0.0)
    kept = Told(student, lesson(64, alike(64)))
    kept.middle = middle
    for state in (0.0, 1.0, 2.0):
        with torch.no_grad():
            student.b.fill_(state)
        kept.look()
    kept.restore()
    assert kept.chosen == chosen and student.b.item() == chosen and kept.told


def test_errors_are_relative_to_the_spread_of_all_samples_not_of_each() -> None:
    """A sample whose wanted outputs are all alike counts no more than others."""
    x = torch.cat([torch.full((1, 2), 2.0), torch.randn(31, 2, generator=torch.Generator().manual_seed(0))])
    kept = looked(Shift(0.0), Part("calibration", (Batch((x,)),), 32), (0.5, 0.25))
    assert torch.allclose(kept.looks[0], kept.looks[0][:1]) and len(kept.looks[0]) == 32
    assert float(kept.looks[0][0]) == pytest.approx(0.25 / float(x.var()))


def test_the_teacher_is_asked_once() -> None:
    asked = []

    class Teacher(Shift):
        def forward(self, x: Tensor) -> Tensor:
            asked.append(len(x))
            return super().forward(x)

    kept = Kept(Shift(1.0), Lesson(Teacher(0.0), (), part(64), part(64), Distillation(alpha=1)))
    for _ in range(3):
        kept.look()
    assert sum(asked) == 64
