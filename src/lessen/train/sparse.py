"""The one loop of sparse training: shape the weights by a rule, then let the survivors settle under fixed masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ..data import Batch
from ..errors import LessenError
from ..models.layer import Layer
from .distill import first
from .loop import FineTune
from .method import Lesson, Trained
from .rule import Fixed, Rule
from .samples import shuffled, steps_of
from .schedules import Schedule, warm_cosine


def trained_sparse(
    student: nn.Module, lesson: Lesson, settings: FineTune, rule: Rule, schedule: Schedule = warm_cosine
) -> Trained:
    """Trains the student in place; on return it holds exact zeros where a mask says so, plain values elsewhere.

    The optimizer (Adam) moves weights of its own, of which `rule.effective` makes those that the network computes
    with; so parameters that several modules share need no special care. Batch norms keep their statistics.

    Args:
        settings: epochs, peak learning rate and batch size; the lesson says how the teacher teaches.
        rule: the method.
        schedule: share of the peak learning rate, by the share of steps done.
    """
    layers, notes = trainable(student, lesson.layers)
    run = _Run(student, lesson, layers, rule, settings.lr)
    total = settings.epochs * steps_of(lesson.part, settings.batch_size)
    with torch.enable_grad():
        for _ in range(settings.epochs):
            for batch in shuffled(lesson.part, settings.batch_size, run.generator):
                run.step(batch, len(run.losses) / total, schedule)
                lesson.step(1)
    masks = {n: layers[n].to_matrix(m) for n, m in run.finish().items() if n in layers}
    return Trained(tuple(run.losses), masks, notes=tuple(notes))


def trainable(student: nn.Module, layers: Iterable[Layer]) -> tuple[dict[str, Layer], list[str]]:
    """The layers whose weight asks for its gradient, and a note on each of the others.

    Raises:
        LessenError: there is none.
    """
    found, notes = {}, []
    for layer in layers:
        if student.get_parameter(layer.name).requires_grad:
            found[layer.name] = layer
        else:
            notes.append(f"{layer.name} is frozen: it was left as it is")
    if not found:
        raise LessenError("no weight can be trained", where=", ".join(layer.name for layer in layers) or "the network",
                          mend="call requires_grad_(True) on the network, or on the layers to train")  # fmt: skip
    return found, notes


class _Run:
    """State of one training run."""

    def __init__(
        self, student: nn.Module, lesson: Lesson, layers: Mapping[str, Layer], rule: Rule, peak: float
    ) -> None:
        for module in (*lesson.teacher.modules(), *student.modules()):
            module.training = False  # a network that torch.export made refuses eval()
        self.student, self.lesson, self.rule = student, lesson, rule
        self.generator = torch.Generator().manual_seed(lesson.seed)
        self.losses: list[float] = []
        self.settled = False
        self.parameters = {n: student.get_parameter(n) for n in rule.watched(student, layers)}
        self.weights = {n: p.detach().clone().requires_grad_() for n, p in self.parameters.items()}
        rule.begin(self.weights, layers, self.generator)
        self.optimizer = self._optimizer(peak)
        self.gradients: dict[str, Tensor] = {}

    def _optimizer(self, peak: float) -> torch.optim.Optimizer:
        watched = {id(p) for p in self.parameters.values()}
        others = [p for p in self.student.parameters() if p.requires_grad and id(p) not in watched]
        groups = [{"params": [*self.weights.values(), *others], "peak": peak}]
        learned = self.rule.learned()
        if learned:
            groups.append({"params": learned, "peak": peak * self.rule.rate})
        return torch.optim.Adam(groups)

    def step(self, batch: Batch, done: float, schedule: Schedule) -> None:
        if not self.settled and done >= self.rule.until:
            self._settle()
        if not self.settled:
            self.rule.update(done / self.rule.until, self.weights, self.gradients)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * schedule(done)
        effective = {n: self.rule.effective(n, w) for n, w in self.weights.items()}
        self._put(effective)
        self._backward(self._loss(batch), effective)
        self.optimizer.step()

    def _loss(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            target = first(self.lesson.teacher(*batch.inputs))
        loss = self.lesson.distillation(first(self.student(*batch.inputs)), target, batch.labels)
        if not bool(torch.isfinite(loss)):
            raise LessenError("the training loss is not finite", mend="lower the learning rate")
        self.losses.append(float(loss.detach()))
        return loss

    def _backward(self, loss: Tensor, effective: Mapping[str, Tensor]) -> None:
        self.student.zero_grad(set_to_none=True)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        _check_gradients(self.student)
        self.gradients = {n: p.grad for n, p in self.parameters.items() if p.grad is not None}
        reached = [n for n in self.gradients if effective[n].requires_grad]
        ends, slopes = [effective[n] for n in reached], [self.gradients[n] for n in reached]
        penalty = None if self.settled else self.rule.penalty(self.weights)
        if penalty is not None:
            ends, slopes = [*ends, penalty], [*slopes, torch.ones_like(penalty)]
        if ends:
            torch.autograd.backward(ends, slopes)

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self.parameters[name].copy_(value)

    @torch.no_grad()
    def _settle(self) -> None:
        """The weights become what they have counted for so far; from here on only the masks count."""
        masks = self.rule.masks(self.weights)
        for name, weight in self.weights.items():
            weight.copy_(self.rule.effective(name, weight) * masks[name])
        self.rule, self.settled = Fixed(masks), True

    def finish(self) -> dict[str, Tensor]:
        """Puts the last weights into the student; returns the masks."""
        if not self.settled:
            self._settle()
        with torch.no_grad():
            self._put({n: self.rule.effective(n, w) for n, w in self.weights.items()})
        self.student.zero_grad(set_to_none=True)
        return self.rule.masks(self.weights)


def _check_gradients(student: nn.Module) -> None:
    for name, p in student.named_parameters():
        if p.grad is not None and not bool(torch.isfinite(p.grad).all()):
            raise LessenError(f"{int((~torch.isfinite(p.grad)).sum())} gradients are NaN or infinite", where=name,
                              mend="lower the learning rate, or look for 0/0 or log(0) behind this layer")  # fmt: skip
