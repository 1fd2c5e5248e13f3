"""Gradients of the loss by single weights: for the criteria that rank by them, and only when one asks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import LessenError
from ..memory import kept
from ..models.layer import Layer
from .batches import count, cut, inputs_of
from .losses import tensors_of
from .still import still

log = logging.getLogger("lessen")

_BATCH = 8  # samples of a mini-batch, for the mean gradient and for the mean of its square
_EACH = 64  # samples that run backwards one by one, for the Fisher information
_HELD, _HELD_BYTES = 128, 2**25  # samples (and bytes of them) that are kept for a pass that may never be asked for

Loss = Callable[[Any, Any], Tensor]


def task_loss(output: Any, batch: Any) -> Tensor | None:
    """What the network was trained to make small, as far as labels tell; None without fitting labels.

    Whole numbers are classes (cross entropy; binary where there is one output a label), others targets (squared error).
    """
    labels = getattr(batch, "labels", None)
    y = next(tensors_of(output), None)
    if labels is None or y is None or not y.is_floating_point():
        return None
    same = y.numel() == labels.numel()
    if labels.is_floating_point():
        return F.mse_loss(y.float(), labels.reshape(y.shape).float()) if same else None
    if same:
        binary = int(labels.max()) <= 1
        return F.binary_cross_entropy_with_logits(y.float(), labels.reshape(y.shape).float()) if binary else None
    if y.ndim > 1 and y.shape[:-1] == labels.shape:
        return F.cross_entropy(y.flatten(0, -2).float(), labels.flatten().long())
    if y.ndim > 1 and (y.shape[0], *y.shape[2:]) == tuple(labels.shape):
        return F.cross_entropy(y.float(), labels.long())
    return None


@dataclass(eq=False)
class Gradients:
    """The passes over a network that give its weights' gradients; each runs when it is first asked for.

    Memory: one tensor of each weight's size for every kind that was asked for, whatever the number of samples.

    Args:
        model: as it was when its statistics were collected; it must not change before the last question.
        weights: by layer name.
        loss: of `collect`, for the Fisher information.
    """

    model: nn.Module
    weights: Mapping[str, Tensor]
    loss: Loss
    batches: list[Any] = field(default_factory=list)
    _versions: dict[str, int] = field(default_factory=dict)
    _made: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._versions = {name: w._version for name, w in self.weights.items()}

    def hold(self, batch: Any) -> None:
        """Keeps a batch for later, in a file, while few are kept."""
        size = sum(x.nbytes for x in inputs_of(batch))
        samples, held = sum(map(count, self.batches)), sum(x.nbytes for b in self.batches for x in inputs_of(b))
        if not self.batches or (samples < _HELD and held + size <= _HELD_BYTES):
            self.batches.append(_shelved(batch))

    def get(self, kind: str, name: str) -> Tensor | None:
        """The sums "mean", "square" or "fisher" of one weight, in its own layout; None where no gradient arrives."""
        if kind not in self._made:
            self._check()
            self._made |= self._fisher() if kind == "fisher" else self._task()
        found = self._made[kind].get(name)
        if found is not None and not bool(torch.isfinite(found).all()):
            raise LessenError(
                "its gradients are NaN or infinite",
                where=name,
                mend="look for a loss or an operator that overflows, or use a criterion without gradients (Wanda)",
            )
        return found

    def _check(self) -> None:
        for name, w in self.weights.items():
            if w._version != self._versions[name]:
                raise LessenError("the weight changed since its statistics were collected", where=name,
                                  mend="collect again")  # fmt: skip

    def _task(self) -> dict[str, dict[str, Tensor]]:
        """The gradient of the task's loss: its mean, and the mean square over mini-batches."""
        mean, square, n = Sums(), Sums(), 0
        for grads in self._gradients(_BATCH, _HELD, lambda y, b: task_loss(y, b)):
            mean.add(grads)
            square.add({k: g.square() for k, g in grads.items()})
            n += 1
        return {"mean": mean.over(n), "square": square.over(n)}

    def _fisher(self) -> dict[str, dict[str, Tensor]]:
        """The mean square of the gradient of single samples' loss."""
        square, n = Sums(), 0
        for grads in self._gradients(1, _EACH, lambda y, b: self.loss(y, b).sum()):
            square.add({k: g.square() for k, g in grads.items()})
            n += 1
        return {"fisher": square.over(n)}

    def _gradients(
        self, size: int, samples: int, loss: Callable[[Any, Any], Tensor | None]
    ) -> Iterator[dict[str, Tensor]]:
        """Of each mini-batch; ends early, with a line in the log, where there is nothing to derive."""
        names, weights = list(self.weights), list(self.weights.values())
        with still(self.model), _derivable(weights):
            for batch in cut(self.batches, samples, size):
                try:
                    with torch.enable_grad():
                        total = loss(self.model(*inputs_of(batch)), batch)
                    if total is None or not total.requires_grad:
                        log.info("no gradients of single weights: no labels, or nothing to derive")
                        return
                    found = torch.autograd.grad(total, weights, allow_unused=True)
                except (
                    RuntimeError,
                    NotImplementedError,
                    IndexError,
                ) as error:  # no derivative, labels of other classes
                    log.info("no gradients of single weights: %s", str(error).splitlines()[0])
                    return
                yield {n: g for n, g in zip(names, found, strict=True) if g is not None}


def _shelved(batch: Any) -> Any:
    """The batch with its large inputs in a file, where it is a record that can be made anew."""
    if not (is_dataclass(batch) and hasattr(batch, "inputs")) or isinstance(batch, type):
        return batch
    return replace(batch, inputs=tuple(kept(x) if x.dtype is torch.float32 else x for x in inputs_of(batch)))


class Sums(dict[str, Tensor]):
    """Running sums by name."""

    def add(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self[name] = self[name].add_(value) if name in self else value.float().clone()

    def over(self, n: int) -> dict[str, Tensor]:
        return {name: value / max(n, 1) for name, value in self.items()}


class _derivable:
    """Weights that gradients are asked of; as before afterwards."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self.before = [(w, w.requires_grad) for w in weights]

    def __enter__(self) -> None:
        for w, _ in self.before:
            w.requires_grad_(True)

    def __exit__(self, *_: object) -> None:
        for w, requires in self.before:
            w.requires_grad_(requires)


@dataclass(frozen=True, eq=False)
class LayerGradients:
    """The gradients of one layer as matrices [rows, columns]; None where none arrives at it.

    Args:
        scale: [columns] or None; the layer's weight is the network's times this (see `smoothing`).
    """

    source: Gradients
    layer: Layer
    scale: Tensor | None = None

    @property
    def mean(self) -> Tensor | None:
        """Mean gradient of the task's loss; None without labels."""
        return self._get("mean", 1)

    @property
    def square(self) -> Tensor | None:
        """Mean over mini-batches of the squared gradient of the task's loss; None without labels."""
        return self._get("square", 2)

    @property
    def fisher(self) -> Tensor | None:
        """Mean over samples of the squared gradient: the diagonal of the Fisher information."""
        return self._get("fisher", 2)

    def scaled(self, scale: Tensor) -> LayerGradients:
        """Of the layer whose columns are multiplied by `scale`."""
        return replace(self, scale=scale if self.scale is None else self.scale * scale)

    def _get(self, kind: str, power: int) -> Tensor | None:
        found = self.source.get(kind, self.layer.name)
        matrix = None if found is None else self.layer.to_matrix(found)
        return matrix if matrix is None or self.scale is None else matrix / self.scale**power
