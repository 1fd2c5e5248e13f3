"""Layers coded one after the other, each making up for what those before it lost."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn

from .bench import Bench, Compressed, realize, waiting
from .codings import Codebook, Coding, Dense, Grid, ScaledCodebook
from .data import Part
from .errors import LessenError
from .memory import frugal
from .models import Layer
from .models.put import put_matrix
from .plan import Treatment
from .statistics import Statistics
from .statistics.fallback import fall_backs
from .statistics.side_by_side import Drift, side_by_side
from .technique import Technique

_SAMPLES, _FEWEST = 1024, 16  # under way at once
_BYTES = 2**27  # of what lies between two layers, for all samples; residual networks hold several of those
TOLD = "coded for what the layers before it hand it"


def under_way(bench: Bench, part: Part) -> Part:
    """The first samples: as many as are enough, fewer where what lies between two layers is large."""
    widest = max((x.macs * x.shape[0] // max(x.weight.numel(), 1) for x in bench.traced.layers), default=0)
    return part.head(max(_FEWEST, min(_SAMPLES, _BYTES // (4 * max(widest, 1)))))


def makes_up(bench: Bench, treatments: Mapping[str, Treatment]) -> bool:
    """Whether a plan leaves enough errors for later layers to make up for: something is coarser than eight bits."""
    layers, coded = bench.layers, {n: t.technique for n, t in treatments.items() if t.technique is not None}
    return any(not _fine(bench.coding(layers[n], technique)) for n, technique in coded.items())


def _fine(coding: Coding) -> bool:
    if isinstance(coding, (Codebook, ScaledCodebook)):
        return coding.centroids.shape[1] >= 256
    return isinstance(coding, Dense) or (isinstance(coding, Grid) and coding.bits >= 8)


@frugal()
def realize_in_turn(bench: Bench, treatments: Mapping[str, Treatment], batches: Iterable[Any]) -> Compressed:
    """`realize`, but every layer is coded for the inputs that it gets from the layers coded before it.

    Its target is what the float network puts out there, so it also corrects, as far as a linear map can, for the
    errors that it is handed (GPTAQ, Li et al. 2025; Qronos, Zhang et al. 2025). No technique has to know of that.
    What can't be visited (embeddings, recurrent layers, weights used several times) is coded as `realize` does.

    Args:
        batches: calibration samples; all are under way at once, so give a hundred or two rather than thousands.
    """
    coded = {n: t.technique for n, t in treatments.items() if t.technique is not None}
    layers = [x for x in bench.traced.layers if x.name in coded]
    made = realize(bench, {n: t for n, t in treatments.items() if n not in {x.name for x in layers if _visitable(x)}})
    turn = _Turn(bench, coded, made.module)
    with _as_one(bench.module, made.module, coded):
        unread = next((s.unread for s in bench.statistics.values()), None)
        todo = [x for x in layers if _visitable(x)]
        visited = side_by_side(bench.module, made.module, todo, batches, turn.visit, unread)
    left = {n: t for n, t in coded.items() if n not in visited and n not in made.codings}
    for name, technique in left.items():
        layer, statistics = bench.layers[name], bench.statistics.get(name, Statistics())
        turn.codings[name] = bench.coding(layer, technique)
        put_matrix(made.module, layer, turn.codings[name].decode(), statistics.mean, bench.scales.get(name))
    codings = {n: {**made.codings, **turn.codings}[n] for n in coded}
    return replace(made, codings=codings, treatments=dict(treatments), why={**made.why, **turn.why})


@contextlib.contextmanager
def _as_one(model: nn.Module, copy: nn.Module, coded: Collection[str]) -> Iterator[None]:
    """Matrices that nothing is done to are read in the network itself: its copy's stay in their file."""
    theirs, own = dict(model.named_parameters()), dict(copy.named_parameters(remove_duplicate=False))
    done = {id(own[n]) for n in coded if n in own}
    same = [(p, p.data, theirs[n].data) for n, p in copy.named_parameters() if p.ndim > 1 and id(p) not in done]
    for p, _, other in same:
        p.data = other
    try:
        yield
    finally:
        for p, before, _ in same:
            p.data = before


def _visitable(layer: Layer) -> bool:
    return layer.kind in ("linear", "conv", "conv_transpose")


@dataclass(eq=False)
class _Turn:
    """The network under way."""

    bench: Bench
    techniques: Mapping[str, Technique]
    module: nn.Module
    codings: dict[str, Coding] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)

    def visit(self, layer: Layer, drift: Drift) -> None:
        """Code one layer and put it in place, with the bias that keeps the mean of its outputs."""
        scale = self.bench.scales.get(layer.name)
        layer, drift = self.bench.layers[layer.name], drift if scale is None else drift.scaled(scale)
        bias = self._bias(layer)
        metric = drift if bias is None else drift.centred()
        target = layer.with_matrix(metric.corrected(layer.matrix))
        known = self.bench.statistics.get(layer.name, Statistics())
        known = replace(known, H=metric.Z, mean=drift.z, observations=drift.observations)
        del metric  # and with it a second matrix of the inputs
        technique = self.techniques[layer.name]
        with fall_backs() as told:
            try:
                coding = waiting(technique.encode(target, known))
            except LessenError:
                coding = self.bench.coding(layer, technique)
        self.why[layer.name] = "; ".join((TOLD, *told))
        self.codings[layer.name] = coding
        matrix = coding.decode()
        put_matrix(self.module, layer, matrix, None, scale)
        if bias is not None:
            bias.add_((_mean(layer.matrix, drift.x) - _mean(matrix, drift.z)).to(bias.dtype))

    def _bias(self, layer: Layer) -> Tensor | None:
        owner, leaf = self.module.get_submodule(layer.module), layer.name.rpartition(".")[2]
        bias = getattr(owner, leaf.replace("weight", "bias"), None) if leaf.endswith("weight") else None
        return bias if isinstance(bias, Tensor) and layer.kind in ("linear", "conv") else None


def _mean(matrix: Tensor, mean: Tensor) -> Tensor:
    """E[W x], [rows]."""
    return (matrix.reshape(mean.shape[0], -1, matrix.shape[1]) @ mean[:, :, None]).flatten()
