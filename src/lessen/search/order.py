"""Which form of a network is looked at first: as it is, or with the outliers of its activations moved into weights."""

from __future__ import annotations

from collections.abc import Iterator

from ..artifact import WAYS, Exporter
from ..bench import Bench
from ..job import Job
from ..plan import Treatment
from ..propose import settings_of
from ..recover import coders
from ..report import Progress
from ..smoothing import is_worth_smoothing, smoothed_bench
from ..targets import Execution

NEGLIGIBLE = 1e-3  # squared error of the outputs by their squared size: 30 dB


def forms(job: Job, bench: Bench, exporter: Exporter, progress: Progress) -> Iterator[tuple[Bench, Exporter]]:
    """The network as it is and smoothed; first the one whose outputs suffer less when all activations are rounded.

    Scaling takes time where no norm absorbs it: a network whose outputs hardly suffer comes first as it is.

    Where linear layers do the smaller part of the work, or nothing that is asked for rounds, the network as it is comes
    first unseen. Whoever takes only the first pays for one of them only.
    """
    if not (_linear(bench) and any(getattr(t, "bits", 0) for t in settings_of(job.using))):
        yield bench, exporter
        tamed = _smoothed(bench, exporter, progress)
        if tamed is not None:
            yield tamed
        return
    tamed = _smoothed(bench, exporter, progress)
    if tamed is None:
        yield bench, exporter
        return
    with progress.stage("smooth"):
        way = _way(job)
        plain, smooth = exporter.disturbance(way), tamed[1].disturbance(way)
    progress.note(f"rounded activations: {plain:.3g} of the outputs as they are, {smooth:.3g} smoothed")
    yield from (tamed, (bench, exporter)) if NEGLIGIBLE < plain > smooth else ((bench, exporter), tamed)


def _way(job: Job) -> Execution:
    """How inputs would be rounded: as all that is asked for agrees on, else to calibrated ranges."""
    asked = {Treatment.of(t).activations for t in settings_of(coders(job.using))}
    return "int8" if None in asked or not asked else WAYS[sorted(map(str, asked))[-1]]  # "token" where there are both


def _smoothed(bench: Bench, exporter: Exporter, progress: Progress) -> tuple[Bench, Exporter] | None:
    with progress.stage("smooth"):
        return smoothed_bench(bench, exporter) if is_worth_smoothing(bench) else None


def _linear(bench: Bench) -> bool:
    """Whether linear layers do most of the multiplications."""
    layers = bench.traced.layers
    return 2 * sum(x.macs for x in layers if x.kind == "linear") >= sum(x.macs for x in layers)
