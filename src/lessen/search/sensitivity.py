"""What rounding the activations of one layer does to the whole network's outputs, measured layer by layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..artifact import WAYS, Exporter
from ..job import Job
from ..models import Layer
from ..propose import activation_harm
from ..report import Progress
from ..solve import Candidate
from ..statistics import Statistics
from ..statistics.losses import sampled_labels
from ..targets.trial import SAMPLES, Answers
from .order import NEGLIGIBLE

_WORK = 1e12  # multiply-adds of all answers together: 10 to 20 seconds of a core
_FEWEST = 4  # samples


def as_measured(
    job: Job, exporter: Exporter, items: Mapping[str, Sequence[Candidate]], progress: Progress
) -> Mapping[str, Sequence[Candidate]]:
    """Candidates that round activations, with the harm of that as measured instead of predicted.

    The same candidates where none does, or where rounding all activations hardly disturbs the outputs.
    """
    ways = _ways(items)
    if not ways or max(exporter.disturbance(WAYS[way]) for way in ways) <= NEGLIGIBLE:
        return items
    measure = relative_entropy if job.loss is sampled_labels else half_squared_error
    samples = _affordable(exporter.bench.traced.macs, sum(map(len, ways.values())))
    harms: dict[tuple[str, int | str], float] = {}
    with progress.stage("sensitivity"):
        for way, rounding in ways.items():
            answers = exporter.answers_rounded(rounding, samples, WAYS[way])
            harms |= {(name, way): measure(wanted, got) for name, wanted, got in answers}
    worst = max(harms, key=lambda n: harms[n], default=("", 0))
    progress.note(f"rounded activations measured layer by layer: {worst[0]} does {harms.get(worst, 0.0):.3g} alone")
    bench = exporter.bench
    return {name: [_with(c, bench.layers[name], bench.statistics.get(name, Statistics()), harms) for c in found]
            for name, found in items.items()}  # fmt: skip


def _ways(items: Mapping[str, Sequence[Candidate]]) -> dict[int | str, list[str]]:
    """The layers that have candidates with inputs rounded this way, by way: 8, "dynamic", "token"."""
    found: dict[int | str, list[str]] = {}
    for name, candidates in items.items():
        for way in dict.fromkeys(c.choice.activations for c in candidates if c.choice.activations):
            found.setdefault(way, []).append(name)
    return found


def _affordable(macs: int, layers: int) -> int:
    """Samples on which so many layers of a network are measured; from counts, so that two runs measure the same."""
    return max(_FEWEST, min(SAMPLES, int(_WORK // max(macs * layers, 1))))


def _with(
    c: Candidate, layer: Layer, statistics: Statistics, harms: Mapping[tuple[str, int | str], float]
) -> Candidate:
    way = c.choice.activations
    if not way or (c.item, way) not in harms:
        return c
    of_weight = max(c.harm - activation_harm(layer, statistics, way), 0.0)
    return replace(c, harm=of_weight + harms[c.item, way])


def half_squared_error(wanted: Answers, got: Answers) -> float:
    """Half the relative squared error, mean over samples, summed over outputs: what `error_of_outputs` is of."""
    return 0.5 * _mean(sum(_relative(a, b) for a, b in _floats(m, g)) for m, g in zip(wanted, got, strict=True))


def relative_entropy(wanted: Answers, got: Answers) -> float:
    """KL divergence of the first output's softmax in nats, summed over a sample: the increase of `sampled_labels`."""
    return _mean(_divergence(mine[0], other[0]) for mine, other in zip(wanted, got, strict=True))


def _floats(wanted: Sequence[Any], got: Sequence[Any]) -> Iterable[tuple[Any, Any]]:
    return ((a, b) for a, b in zip(wanted, got, strict=True) if a.dtype.kind == "f")


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values) or [0.0]))


def _relative(wanted: np.ndarray, got: np.ndarray) -> float:
    a, b = (x.astype(np.float64).reshape(len(x) if x.ndim else 1, -1) for x in (wanted, got))
    return float((np.square(a - b).sum(1) / np.maximum(np.square(a).sum(1), 1e-30)).mean())


def _divergence(wanted: np.ndarray, got: np.ndarray) -> float:
    p, q = (_log_softmax(x.astype(np.float64)) for x in (wanted, got))
    return float((np.exp(p) * (p - q)).sum() / max(len(wanted), 1))


def _log_softmax(x: np.ndarray) -> np.ndarray:
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
