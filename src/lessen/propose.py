"""From layers and techniques to priced candidates: what could be done, how much harm it does, what it costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any, Protocol

import torch

from .allocation import allocated
from .bench import Bench
from .codings import Coding, Dense, Grid
from .errors import LessenError, did_you_mean
from .memory import rest, stretches
from .models import Layer
from .plan import Treatment
from .quantize.dynamic import check_at_run_time
from .solve import Candidate
from .statistics import Statistics, forget_factor
from .technique import Technique


class Prices(Protocol):
    """What a target knows of costs."""

    def nbytes(self, layer: Layer, coding: Coding) -> int: ...
    def seconds(self, layer: Layer, coding: Coding, integer: bool | str) -> float: ...
    def runs_integers(self, layer: Layer, coding: Coding) -> bool: ...
    def finds_ranges(self, layer: Layer, coding: Coding) -> bool: ...


def settings_of(using: Iterable[Any]) -> tuple[Technique, ...]:
    """Types become all the settings they offer, or their defaults if none; instances stay; doubles are dropped."""
    offered: dict[Technique, None] = {}
    for technique in using:
        kind = isinstance(technique, type)
        for setting in technique.offers() or (technique(),) if kind else (technique,):
            offered.setdefault(setting)
    return tuple(offered)


def chosen_layers(layers: Iterable[Layer], where: tuple[str, ...], skip: tuple[str, ...]) -> dict[str, str]:
    """Layer name -> "" if it may be worked on, else why not. A pattern that matches nothing is an error."""
    names = [layer.name for layer in layers]
    for option, patterns in (("--where", where), ("--skip", skip)):
        for p in patterns:
            if not any(_matches(n, p) for n in names):
                raise LessenError(f"no layer matches {p!r}", where=option, mend=did_you_mean(p, names[:40]))
    return {n: _reason(n, where, skip) for n in names}


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name.rpartition(".")[0], pattern)


def _reason(name: str, where: tuple[str, ...], skip: tuple[str, ...]) -> str:
    if any(_matches(name, p) for p in skip):
        return "left out by --skip"
    return "" if not where or any(_matches(name, p) for p in where) else "left out by --where"


def worthwhile(bench: Bench, techniques: tuple[Technique, ...], prices: Prices) -> tuple[Technique, ...]:
    """The techniques that can ever be the best choice on this target.

    On a few of the network's own layers each setting is tried; one that is beaten by another on all of them (more or
    equal bytes, seconds and harm: 5 bits in a file that stores bytes) would never be chosen and is left out.
    """
    samples = _samples(bench)
    shares = {t: allocated(t, bench.traced.layers, bench.statistics) for t in techniques}
    tried = {t: [_figures(bench, x, shares[t][x.name], prices) for x in samples] for t in techniques}
    if not samples:
        return techniques
    return tuple(t for t in techniques if not any(_beaten(tried[t], tried[u]) for u in techniques if u is not t))


def _samples(bench: Bench) -> list[Layer]:
    """Three layers of different sizes, none of them large, of the kinds that the network is made of."""
    fit = sorted((x for x in bench.traced.layers if x.kind != "embedding"), key=lambda x: x.weight.numel())
    fit = [x for x in fit if x.shape[1] >= 16] or fit
    fit = fit[: max(1, (len(fit) + 1) // 2)]
    return [fit[i] for i in sorted({len(fit) // 3, 2 * len(fit) // 3, len(fit) - 1})] if fit else []


def _figures(bench: Bench, layer: Layer, technique: Technique, prices: Prices) -> tuple[float, float, float] | None:
    """(bytes, seconds, harm) of the layer held this way; None where it can't be."""
    try:
        asked, coding = coded(bench, layer, technique)
    except LessenError:
        return None
    harm = bench.statistics.get(layer.name, Statistics()).harm(coding.decode() - layer.matrix)
    way: bool | str = str(asked.activations) if asked.at_run_time else True
    able = prices.finds_ranges(layer, coding) if asked.at_run_time else prices.runs_integers(layer, coding)
    return (prices.nbytes(layer, coding), prices.seconds(layer, coding, able and way), harm)


def coded(bench: Bench, layer: Layer, technique: Technique) -> tuple[Treatment, Coding]:
    """What a technique asks for, and the layer's weight held so; `LessenError` where the layer can't be."""
    asked = Treatment.of(technique)
    if asked.at_run_time:
        check_at_run_time(layer, asked.activations)
    return asked, bench.coding(layer, asked.technique or technique)


def _beaten(mine: list[tuple[float, float, float] | None], other: list[tuple[float, float, float] | None]) -> bool:
    """Whether `other` is as cheap and less harmful wherever `mine` can be used at all."""
    pairs = [(a, b) for a, b in zip(mine, other, strict=True) if a is not None]
    return bool(pairs) and all(b is not None and b[0] <= a[0] and b[1] <= a[1] and b[2] < a[2] for a, b in pairs)


def propose(
    bench: Bench,
    techniques: tuple[Technique, ...],
    prices: Prices,
    allowed: dict[str, str],
    step: Callable[[int], object] = lambda n: None,
) -> dict[str, list[Candidate]]:
    """Candidates of every layer: kept as it is, and each technique's setting that the layer can take."""
    shared = [layer for layer in bench.traced.layers if not allowed.get(layer.name)]
    each = [allocated(t, shared, bench.statistics) for t in techniques]
    found = {x.name: _candidates(bench, x, [t[x.name] for t in each if x.name in t], prices, step)
             for x in bench.traced.layers}  # fmt: skip
    forget_factor()
    return found


def _candidates(
    bench: Bench,
    layer: Layer,
    techniques: Sequence[Technique],
    prices: Prices,
    step: Callable[[int], object],
) -> list[Candidate]:
    statistics = bench.statistics.get(layer.name, Statistics())
    matrix = layer.matrix
    plain = Dense(matrix)
    found = [Candidate(layer.name, Treatment(), 0.0, prices.nbytes(layer, plain), prices.seconds(layer, plain, False))]
    for technique in techniques:
        try:
            asked, coding = coded(bench, layer, technique)
        except LessenError:
            continue
        harm = statistics.harm(coding.decode() - matrix)
        found.extend(_ways_to_run(layer, statistics, asked, coding, harm, prices))
    rest()
    step(1)
    return found


def _ways_to_run(
    layer: Layer, statistics: Statistics, asked: Treatment, coding: Coding, harm: float, prices: Prices
) -> Iterator[Candidate]:
    """With quantized inputs where the target then runs integers, and with float inputs; only as asked, if it is."""
    nbytes = prices.nbytes(layer, coding)
    able = prices.finds_ranges(layer, coding) if asked.at_run_time else prices.runs_integers(layer, coding)
    if not asked.at_run_time:
        yield Candidate(layer.name, asked, harm, nbytes, prices.seconds(layer, coding, False))
    if able:
        way = asked.activations or 8
        noisy = harm + activation_harm(layer, statistics, way)
        seconds = prices.seconds(layer, coding, str(way) if asked.at_run_time else True)
        yield Candidate(layer.name, replace(asked, activations=way), noisy, nbytes, seconds)


def activation_harm(layer: Layer, statistics: Statistics, way: int | str = 8) -> float:
    """Predicted harm of rounding the layer's input to 8 bits: 1/2 sum_r G_r |w_r|^2 scale^2 / 12.

    The rounding error counts as white and uniform on one step of the range (Widrow 1956): of all that was seen, or of
    one token, where a channel whose second moment is H_cc reaches twice its root, and one of n alike is at
    sqrt(2 log n) times it (a Gaussian's).
    """
    reach = (max(statistics.high, 0.0) - min(statistics.low, 0.0)) / 255
    if way == "token" and statistics.H is not None:
        moments = statistics.diagonal(layer.shape[1]).double()
        most = max(4 * float(moments.max()), 2 * math.log(max(layer.shape[1], 2)) * float(moments.mean()))
        reach = min(reach, 2 * math.sqrt(most) / 254)
    matrix = layer.matrix
    rows = torch.cat([matrix[s].double().square().sum(1) for s in stretches(*matrix.shape)])
    weight = torch.ones_like(rows) if statistics.G is None else statistics.G.double()
    return float(0.5 * (weight * rows).sum()) * reach * reach / 12


def is_integer_grid(coding: Coding) -> bool:
    """A symmetric grid of at most 8 bits with one scale a row or a tensor: what integer kernels multiply."""
    return isinstance(coding, Grid) and coding.bits <= 8 and coding.symmetric and coding.scale.shape[1] == 1
