"""The backward pass: how much the loss moves with each output of each layer (the empirical Fisher's diagonal)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..models.layer import Layer
from .batches import count, inputs_of
from .columns import Convolution
from .losses import tensors_of
from .moments import Gradients, Moments
from .unread import Search
from .watch import Watch

log = logging.getLogger("lessen")

# Letters: the ranks of predicted harm and of measured drops correlate by 0.68 at 0, 0.85 at 0.03, 0.89 at 0.1.
SHRINKAGE = 0.1


class Fisher:
    """Observer of the first batches: gradients, and which layers read the very same tensor.

    Args:
        leaders: filled while watching: layer name -> the first layer with the same inputs.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.samples = 0
        self.by_layer = {layer.name: Gradients(layer.shape[0]) for layer in layers}
        self.returned: dict[str, Moments] = {}
        self.unread = Search()
        self._read: dict[str, list[Any]] = {}
        self.values = 0  # that layers read, each tensor counted once
        self._last: Tensor | None = None
        self._number = 0

    @property
    def leaders(self) -> dict[str, str]:
        """Layer name -> the first layer that reads the same tensors in the same way; only layers that were reached."""
        first: dict[Any, str] = {}
        return {name: first.setdefault(tuple(read), name) for name, read in self._read.items()}

    def rows(self, layer: Layer, x: Tensor) -> None:
        self._reads(layer, x, layer.kind)

    def image(self, layer: Layer, x: Tensor, conv: Convolution) -> None:
        self._reads(layer, x, (conv, tuple(layer.weight.shape[2:])))

    def _reads(self, layer: Layer, x: Tensor, how: Any) -> None:
        last = self._last  # held, so that its memory can't have been given to another tensor meanwhile
        if last is None or not _same(last, x):
            self._number += 1
            self.values += x.numel()
        self._last = x
        self._read.setdefault(layer.name, []).append((self._number, x._version, how))

    def lookups(self, layer: Layer, indices: Tensor) -> None:
        """Lookups are counted in the pass over all data."""

    def gradients(self, layer: Layer, grads: Tensor, start: int) -> None:
        self.by_layer[layer.name].add(grads, start)
        self.unread.gradients(grads)

    def lookup_gradients(self, layer: Layer, grads: Tensor) -> None:
        self.returned.setdefault(layer.name, Moments()).add(grads.float()[None])

    def starts(self, samples: int) -> None:
        """A batch of so many samples comes next."""
        self.samples += samples

    def begin_again(self) -> None:
        """Forget everything seen so far."""
        self.by_layer = {name: Gradients(len(g.rows)) for name, g in self.by_layer.items()}
        self.returned, self._read, self.samples, self.unread = {}, {}, 0, Search()

    def runs_backward(self, inputs: tuple[Tensor, ...]) -> None:
        """Forward first; the gradients of all that these inputs make come then."""
        self.unread.starts(inputs)

    def forget_inputs(self) -> None:
        """A batch has run backward."""
        self._last = None
        self.unread.ends()

    def reached(self) -> bool:
        """Did a gradient arrive at every layer that the data did?"""
        return all(self.by_layer[name].seen for name in self._read)

    def G(self, layer: Layer) -> Tensor | None:
        """Second moment of the gradient at each output, [rows], shrunk to its mean; None where none arrived.

        From a few dozen samples of a network that is sure of itself most rows of a last layer get no gradient at all:
        that they don't matter is chance, and a factorization that believes it gives them up.
        """
        got = self.by_layer[layer.name]
        if not got.seen or not bool(got.rows.isfinite().all()):
            return None
        rows = (got.rows / max(self.samples, 1)).float()
        return (1 - SHRINKAGE) * rows + SHRINKAGE * rows.mean()

    def embedding(self, layer: Layer) -> Tensor | None:
        """Second moment of the gradient at one lookup, [1, columns, columns]; None where none arrived."""
        moments = self.returned.get(layer.name)
        H = None if moments is None else moments.second_moment()
        return H if H is not None and bool(torch.isfinite(H).all()) else None


def _same(a: Tensor, b: Tensor) -> bool:
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride() and a.dtype == b.dtype


def run_fisher(model: nn.Module, watch: Watch, head: Iterable[Any], loss: Callable[[Any, Any], Tensor] | None) -> None:
    """Runs the first batches forward, and backward if there is a loss and something to derive it by.

    Where there is not, one batch has run forward when this returns, and no gradient is known.
    """
    observer: Any = watch.observer
    extra: list[Tensor] = []
    for number, batch in enumerate(head):
        judge = None if loss is None else (loss, batch)
        observer.starts(count(batch))
        done = judge is not None and _one_batch(model, watch, inputs_of(batch), judge, extra)
        if number == 0 and judge is not None and not (done and observer.reached()):
            # something without a derivative lies in the way: start behind it too, at every bias and norm
            _again(observer, batch)
            extra = [p for p in model.parameters() if p.ndim == 1 and p.is_floating_point()]
            done = _one_batch(model, watch, inputs_of(batch), judge, extra)
        if not done:
            _again(observer, batch)
            with torch.no_grad(), watch:
                model(*inputs_of(batch))
            break
        observer.forget_inputs()
        watch.forget()
    watch.forget()


def _again(observer: Any, batch: Any) -> None:
    observer.begin_again()
    observer.starts(count(batch))


def _one_batch(
    model: nn.Module,
    watch: Watch,
    inputs: tuple[Tensor, ...],
    judge: tuple[Callable[[Any, Any], Tensor], Any],
    extra: list[Tensor],
) -> bool:
    """One backward pass; False if the loss can't be derived."""
    tables = [m.weight for m in model.modules() if isinstance(m, nn.Embedding)]
    leaves = [x.detach().clone().requires_grad_() if x.is_floating_point() else x for x in inputs]
    roots = [x for x in leaves if x.requires_grad] + tables + extra
    observer: Any = watch.observer
    observer.runs_backward(inputs)
    try:
        for p in tables + extra:
            p.requires_grad_(True)
        with torch.enable_grad(), watch:
            output = model(*(x.clone() if x.requires_grad else x for x in leaves))
            total = _total(judge[0](output, judge[1]), next((len(y) for y in tensors_of(output) if y.ndim), 1))
            if not roots or not total.requires_grad:
                return False
            watch.backward = True
            torch.autograd.grad(total, roots, allow_unused=True)
        return True
    except (RuntimeError, NotImplementedError) as error:  # an operator without derivative, an in-place edit, ...
        log.info("no gradients: %s", str(error).splitlines()[0])
        return False
    finally:
        watch.backward = False
        for p in tables + extra:
            p.requires_grad_(False)


def _total(loss: Tensor, samples: int) -> Tensor:
    """The sum over samples, so that each sample's gradient stands for itself."""
    return loss.sum() if loss.ndim else loss * samples
