"""`collect`: one streaming pass over the calibration data; nothing of it is kept but running sums."""

from __future__ import annotations

import itertools
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LessenError
from ..memory import frugal
from ..models.layer import Layer
from .batches import after, count, cut, inputs_of
from .both import Both
from .fisher import Fisher, run_fisher
from .gradients import Gradients, LayerGradients
from .losses import error_of_outputs
from .statistics import Statistics
from .still import still
from .sums import Sums
from .watch import Watch

log = logging.getLogger("lessen")

_ROOM = 2**22  # values that layers read in one batch that runs backwards, 16 MB; forwards little of it is held
_PAGES = 2**23  # bytes: smaller activations are used again, which is quicker than new pages for each
_MOST_BACKWARD = 32  # samples


@frugal(_PAGES)
def collect(
    model: nn.Module,
    layers: Sequence[Layer],
    batches: Iterable[Any],
    loss: Callable[[Any, Any], Tensor] = error_of_outputs,
    fisher: int = 32,
) -> dict[str, Statistics]:
    """What calibration learns of each layer: second moment, mean and range of its input, Fisher of its outputs.

    The first `fisher` samples also run backwards, a few at a time (with every weight frozen: only the gradients that
    pass by are looked at); every sample runs forward once. Layers that read the same tensor (query, key, value) share
    their sums. Memory: one [columns, columns] matrix a layer; above `moments.WIDEST` columns only its diagonal.
    Gradients of single weights are not computed here but by the first technique that asks (`Statistics.gradients`).

    Args:
        batches: tuples of inputs, single tensors, or anything with `.inputs`; one pass, the first few are held.
        loss: (the network's output, the batch) -> loss of each sample [n], or their mean.
        fisher: samples for the backward pass; 0 for none (then `G` is None).

    Returns:
        `Statistics` by layer name; `samples` is 0 for a layer that no batch reached.

    Raises:
        LessenError: no data; NaN or infinite activations, naming the layer.

    The model is left as it was found: training mode, `requires_grad`, weights and gradients.
    """
    stream = iter(batches)
    head = list(_head(stream, fisher))
    if not head:
        raise LessenError("no calibration data: not a single batch", mend="give at least one batch of inputs")
    weights = weights_of(model, layers)
    later = Gradients(model, {layer.name: weights[layer.name] for layer in layers}, loss)
    with still(model, any(layer.kind == "recurrent" for layer in layers)):
        first = _first_look(model, layers, weights, head)
        both = Both(Fisher(layers), Sums(layers, first.leaders))
        watch = Watch(weights, layers, both)
        size = max(1, _ROOM // max(first.values, 1))
        run_fisher(model, watch, cut(head, fisher, min(size, _MOST_BACKWARD)), loss if fisher else None)
        for batch in head:
            later.hold(batch)
        watch.observer = sums = both.sums
        unread = both.fisher.unread.found()
        if unread is not None:
            sums.begin_again()  # of what was read only
        for batch in cut(itertools.chain(after(head, both.samples), _held(stream, later)), sys.maxsize, 4 * size):
            sums.starts(count(batch), unread.rows(batch) if unread else None)
            with torch.no_grad(), watch:
                model(*inputs_of(batch))
            watch.forget()
            log.debug("statistics: %d samples", sums.seen)
    known, samples = both.fisher, sums.seen
    found = {layer.name: _finished(layer, sums, known, samples) for layer in layers}
    return {x.name: replace(found[x.name], gradients=LayerGradients(later, x), unread=unread) for x in layers}


def _first_look(model: nn.Module, layers: Sequence[Layer], weights: dict[str, Tensor], head: Sequence[Any]) -> Fisher:
    """One sample: which layers read the same tensors, and how many values they read."""
    reads = Fisher(layers)
    piece = next(cut(head, 1, 1))
    with torch.no_grad(), Watch(weights, layers, reads):
        model(*inputs_of(piece))
    reads.values //= max(count(piece), 1)
    return reads


def _held(stream: Iterable[Any], later: Gradients) -> Iterator[Any]:
    for batch in stream:
        later.hold(batch)
        yield batch


def weights_of(model: nn.Module, layers: Iterable[Layer]) -> dict[str, Tensor]:
    """The tensors that the model really uses, by layer name."""
    own: dict[str, Tensor] = dict(model.named_buffers(remove_duplicate=False))
    own.update(model.named_parameters(remove_duplicate=False))
    for layer in layers:
        if layer.name not in own:
            raise LessenError("the model has no such parameter", where=layer.name, mend="trace this very model")
    return own


def _head(stream: Iterator[Any], samples: int) -> Iterator[Any]:
    seen = 0
    for batch in stream:
        yield batch
        seen += count(batch)
        if seen >= samples:
            return


def _finished(layer: Layer, sums: Sums, known: Fisher, samples: int) -> Statistics:
    if layer.name not in sums.positions:
        return Statistics()
    positions = max(1, round(sums.positions[layer.name] / max(samples, 1)))
    if layer.kind == "embedding":
        usage = sums.lookups_by[layer.name].usage(samples)
        return Statistics(known.embedding(layer), None, usage, positions=positions, samples=samples)
    moments = sums.of(layer)
    H = moments.second_moment()
    if H is None or not bool(torch.isfinite(_diagonal(H)).all()) or moments.low != moments.low:
        raise LessenError(
            "its input holds NaN or infinite values",
            where=layer.name,
            mend="look for NaN in the calibration data, or for a layer before it that overflows",
        )
    return Statistics(H, moments.mean(), known.G(layer), moments.low, moments.high, positions, samples, moments.n,
                      extremes=moments.extremes)  # fmt: skip


def _diagonal(H: Tensor) -> Tensor:
    """What tells of every NaN and infinity: a sum of squares of each column."""
    return H.diagonal(dim1=-2, dim2=-1) if H.ndim == 3 else H
