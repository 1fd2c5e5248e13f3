"""`LearnedPruning`: training the network that says which weights to keep."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..data import Batch
from ..errors import LessenError
from ..models.layer import Layer
from ..prune.learned import Predictor
from ..prune.learned_features import features
from ..statistics import collect
from .distill import first
from .masks import globally
from .method import Lesson, Trained
from .samples import shuffled, steps_of
from .schedules import warm_cosine
from .sparsifier import Sparsifier

_SAMPLES = 512  # statistics settle by then
_HOT, _COLD = 1.0, 0.2  # temperature of the relaxed masks at the first and at the last step


@dataclass(frozen=True, eq=False)
class Learned(Trained):
    """What learned pruning leaves: the masks, and the predictor that made them."""

    predictor: Predictor | None = None


@dataclass(frozen=True)
class LearnedPruning(Sparsifier):
    """Trains a mask predictor on a network, end to end, and prunes the network by it.

    Only the predictor learns; the network's weights stay what they are. Every weight is kept with probability
    sigmoid(score - threshold), the threshold such that the budget is held; masks are drawn by the binary concrete
    relaxation (Maddison et al. 2017, https://arxiv.org/abs/1611.00712), used hard in the forward pass and with the
    relaxation's gradient; the original network teaches. `save` keeps the predictor for other networks (`LearnedMask`).

    Args:
        sparsity: share of all layers' weights that is removed at the end; training goes through less and more, so that
            the predictor serves other sparsities too.
        epochs: passes over the training data.
        lr: peak learning rate of Adam.
        batch_size: samples per step.
        save: where to write the predictor (safetensors); "" for nowhere.

    >>> pruned = lessen.apply(model, LearnedPruning(0.8, save="predictor.safetensors"), train_data)  # doctest: +SKIP
    >>> other = lessen.apply(other_model, LearnedMask(0.8, predictor="predictor.safetensors"), data)  # doctest: +SKIP
    """

    sparsity: float = 0.8
    epochs: int = 1
    lr: float = 3e-3
    batch_size: int = 64
    save: str = ""

    def fit(self, student: nn.Module, lesson: Lesson) -> Learned:
        """Trains a predictor on `student`, then prunes it in place."""
        for module in student.modules():
            module.training = False  # a network that torch.export made refuses eval()
        layers = {x.name: x for x in lesson.layers}
        run = _Run(self, student, lesson, layers)
        run.train()
        masks = run.masks()
        with torch.no_grad():
            for name, mask in masks.items():
                student.get_parameter(name).mul_(layers[name].from_matrix(mask.float()))
        if self.save:
            run.predictor.save(self.save)
        return Learned(tuple(run.losses), masks, predictor=run.predictor)

    @classmethod
    def _offered(cls) -> Iterator[LearnedPruning]:
        for sparsity in (0.3, 0.5, 0.7):
            yield cls(sparsity)


class _Run:
    """State of one training run."""

    def __init__(self, method: LearnedPruning, student: nn.Module, lesson: Lesson, layers: Mapping[str, Layer]) -> None:
        self.method, self.student, self.lesson, self.layers = method, student, lesson, layers
        known = collect(student, lesson.layers, lesson.part.head(_SAMPLES).batches())
        last = max(len(layers) - 1, 1)
        self.known = [features(x, known[x.name], i / last) for i, x in enumerate(layers.values())]
        self.sizes = [len(f) for f in self.known]
        self.features = torch.cat(self.known)
        self.predictor = Predictor(lesson.seed)
        self.weights = {n: student.get_parameter(n).detach().clone() for n in layers}
        self.generator = torch.Generator().manual_seed(lesson.seed)
        self.losses: list[float] = []

    def train(self) -> None:
        method, optimizer = self.method, torch.optim.Adam(self.predictor.parameters(), lr=self.method.lr)
        total = method.epochs * steps_of(self.lesson.part, method.batch_size)
        with torch.enable_grad():
            for _ in range(method.epochs):
                for batch in shuffled(self.lesson.part, method.batch_size, self.generator):
                    done = len(self.losses) / total
                    for group in optimizer.param_groups:
                        group["lr"] = method.lr * warm_cosine(done)
                    optimizer.zero_grad(set_to_none=True)
                    loss = self._loss(batch, done)
                    loss.backward()
                    optimizer.step()
                    self.lesson.step(1)

    def _loss(self, batch: Batch, done: float) -> Tensor:
        with torch.no_grad():
            target = first(self.lesson.teacher(*batch.inputs))
        found: Any = functional_call(self.student, self._drawn(done), batch.inputs)
        loss = self.lesson.distillation(first(found), target, batch.labels)
        if not bool(torch.isfinite(loss)):
            raise LessenError("the training loss is not finite", mend="lower the learning rate")
        self.losses.append(float(loss.detach()))
        return loss

    def _drawn(self, done: float) -> dict[str, Tensor]:
        """The weights under a mask that is drawn: hard, with the gradient of its relaxation."""
        scores = self.predictor(self.features)
        heat = _HOT * (_COLD / _HOT) ** done
        spread = 1 - (1 - self.method.sparsity) * 2 ** (2 * float(torch.rand((), generator=self.generator)) - 1)
        with torch.no_grad():
            edge = _quantile(scores, max(spread, 0.0))
            u = torch.rand(len(scores), generator=self.generator).clamp_(1e-6, 1 - 1e-6)
        shifted = scores + (u.log() - (1 - u).log()) * heat
        steep = ((shifted.detach() - edge) / heat).sigmoid()
        steep = steep * (1 - steep)
        mean = (steep * scores).sum() / steep.sum().clamp_min(1e-12)
        edge = edge + mean - mean.detach()  # the budget holds: where all scores rise, the threshold does too
        soft = ((shifted - edge) / heat).sigmoid()
        mask = soft + ((soft > 0.5).float() - soft).detach()
        pieces = mask.split(self.sizes)
        return {
            n: self.weights[n] * self.layers[n].from_matrix(m.reshape(self.layers[n].shape))
            for n, m in zip(self.layers, pieces, strict=True)
        }

    @torch.no_grad()
    def masks(self) -> dict[str, Tensor]:
        """The final ones: the highest scores of all layers together."""
        pieces = self.predictor(self.features).double().split(self.sizes)
        scores = {n: s.reshape(self.layers[n].shape) for n, s in zip(self.layers, pieces, strict=True)}
        return globally(scores, self.method.sparsity)


def _quantile(scores: Tensor, share: float) -> Tensor:
    return scores.kthvalue(min(len(scores), max(1, math.floor(share * len(scores))))).values
