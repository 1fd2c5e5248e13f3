"""Which form of a network is looked at first: as it is, or with the outliers of its activations moved into weights."""

from __future__ import annotations

from collections.abc import Iterator

from ..artifact import Exporter
from ..bench import Bench
from ..job import Job
from ..propose import settings_of
from ..report import Progress
from ..smoothing import is_worth_smoothing, smoothed_bench

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
        plain, smooth = exporter.disturbance(), tamed[1].disturbance()
    progress.note(f"rounded activations: {plain:.3g} of the outputs as they are, {smooth:.3g} smoothed")
    yield from (tamed, (bench, exporter)) if NEGLIGIBLE < plain > smooth else ((bench, exporter), tamed)


def _smoothed(bench: Bench, exporter: Exporter, progress: Progress) -> tuple[Bench, Exporter] | None:
    with progress.stage("smooth"):
        return smoothed_bench(bench, exporter) if is_worth_smoothing(bench) else None


def _linear(bench: Bench) -> bool:
    """Whether linear layers do most of the multiplications."""
    layers = bench.traced.layers
    return 2 * sum(x.macs for x in layers if x.kind == "linear") >= sum(x.macs for x in layers)
