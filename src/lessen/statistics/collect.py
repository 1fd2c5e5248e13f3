"""`collect`: one streaming pass over the calibration data; nothing of it is kept but running sums."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LessenError
from ..models.layer import Layer
from .batches import count, inputs_of, small
from .fisher import Fisher, run_fisher
from .losses import error_of_outputs
from .statistics import Statistics
from .sums import Sums
from .watch import Watch

log = logging.getLogger("lessen")


def collect(
    model: nn.Module,
    layers: Sequence[Layer],
    batches: Iterable[Any],
    loss: Callable[[Any, Any], Tensor] = error_of_outputs,
    fisher: int = 32,
) -> dict[str, Statistics]:
    """What calibration learns of each layer: second moment, mean and range of its input, Fisher of its outputs.

    The first `fisher` samples also run backwards, a few at a time (with every weight frozen: only the gradients that
    pass by are looked at). Layers that read the same tensor (query, key, value) share their sums.
    Memory: one [columns, columns] matrix a layer; above `moments.WIDEST` columns only its diagonal.

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
    with _still(model, any(layer.kind == "recurrent" for layer in layers)):
        known = run_fisher(model, Watch(weights, layers, Fisher(layers)), small(head, fisher), loss if fisher else None)
        sums = Sums(layers, known.leaders)
        watch, samples = Watch(weights, layers, sums), 0
        for batch in itertools.chain(head, stream):
            samples += sums.starts(n := count(batch))
            with torch.no_grad(), watch:
                model(*inputs_of(batch))
            watch.forget()
            log.debug("statistics: %d samples (+%d)", samples, n)
    return {layer.name: _finished(layer, sums, known, samples) for layer in layers}


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


@contextlib.contextmanager
def _still(model: nn.Module, recurrent: bool) -> Iterator[None]:
    """Evaluation mode, all parameters frozen, no fused kernels that hide a weight; all as before afterwards."""
    modes = [(m, m.training) for m in model.modules()]
    grads = [(p, p.requires_grad) for p in model.parameters()]
    fused, mkldnn = torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.set_flags()
    try:
        for m, _ in modes:
            m.training = False  # a network that torch.export made refuses eval()
        model.requires_grad_(False)
        torch.backends.mha.set_fastpath_enabled(False)
        if recurrent:
            torch.backends.mkldnn.set_flags(_enabled=False)
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        torch.backends.mkldnn.set_flags(_enabled=mkldnn[0])
        for m, training in modes:
            m.training = training
        for p, requires in grads:
            p.requires_grad_(requires)


def _finished(layer: Layer, sums: Sums, known: Fisher, samples: int) -> Statistics:
    if layer.name not in sums.positions:
        return Statistics()
    positions = max(1, round(sums.positions[layer.name] / max(samples, 1)))
    if layer.kind == "embedding":
        usage = sums.lookups_by[layer.name].usage(samples)
        return Statistics(known.embedding(layer), None, usage, positions=positions, samples=samples)
    moments = sums.of(layer)
    H = moments.second_moment()
    if H is None or not bool(torch.isfinite(H).all()) or moments.low != moments.low:
        raise LessenError(
            "its input holds NaN or infinite values",
            where=layer.name,
            mend="look for NaN in the calibration data, or for a layer before it that overflows",
        )
    return Statistics(H, moments.mean(), known.G(layer), moments.low, moments.high, positions, samples, moments.n)
