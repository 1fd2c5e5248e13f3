"""A second bench of the same network: inputs of its linear layers tamed, their weights scaled to match."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from .artifact import Exporter
from .bench import Bench
from .memory import kept
from .statistics import Statistics
from .targets import smoothed

STRENGTH = 0.85  # MiniLM: loss 0.45 at 0.7, 0.24 at 0.85, 0.28 at 0.9

WORTH = (
    0.1  # share of the multiply-adds that linear layers must do: the last layer of a CNN is not worth a second curve
)


def smoothed_bench(bench: Bench, exporter: Exporter, strength: float = STRENGTH) -> tuple[Bench, Exporter] | None:
    """The bench whose layers, statistics and graph are those of the smoothed network (Xiao et al. 2023).

    The torch network stays as it is: a layer in `scales` holds the parameter times its scale, and what is decoded
    is divided by it again. In the graph the inputs are divided, inside the norm that makes them where that can be.

    Args:
        bench: not smoothed yet.
        exporter: of this bench.
        strength: share of an outlier that moves into the weight, 0 to 1.

    Returns:
        None where there is nothing to smooth, or the target quantizes no inputs of linear layers.
    """
    if "linear" not in exporter.target.executes or bench.scales:
        return None
    seen = {n: s.extremes for n, s in bench.statistics.items() if s.extremes is not None}
    made = smoothed(exporter.graph, bench.traced.layers, seen, strength)
    if not made.scales:
        return None
    statistics = _transformed(bench.statistics, made.scales, made.ranges)
    traced = dataclasses.replace(bench.traced, layers=made.layers)
    second = Bench(bench.module, traced, statistics, bench.folded, bench.channels, bench.edits, bench.harm,
                   made.scales, strength)  # fmt: skip
    return second, Exporter(exporter.target, second, exporter.inputs, exporter.calibration, made)


def is_worth_smoothing(bench: Bench) -> bool:
    """Whether linear layers do enough of the work. For who looks for a plan: one that has `smooth` is carried out."""
    layers = bench.traced.layers
    return sum(x.macs for x in layers if x.kind == "linear") >= WORTH * sum(x.macs for x in layers)


def _transformed(
    statistics: Mapping[str, Statistics], scales: Mapping[str, Tensor], ranges: Mapping[str, tuple[float, float]]
) -> dict[str, Statistics]:
    """Statistics of x / s; layers that shared one second moment share the new one too."""
    moments: dict[tuple[int, int], Tensor] = {}
    found = dict(statistics)
    for name, s in scales.items():
        old = statistics.get(name)
        if old is None:
            continue
        key = (id(old.H), id(s))
        if old.H is not None and key not in moments:
            moments[key] = kept(old.H / (torch.outer(s, s) if old.H.ndim == 3 else s.square()))
        low, high = ranges[name]
        mean = None if old.mean is None else old.mean / s
        gradients = None if old.gradients is None else old.gradients.scaled(s)
        extremes = None if old.extremes is None else (old.extremes[0] / s, old.extremes[1] / s)
        found[name] = dataclasses.replace(old, H=moments.get(key), mean=mean, low=low, high=high, gradients=gradients,
                                          extremes=extremes)  # fmt: skip
    return found
