"""From a job to the plan that holds its budget: prepare, propose, solve, measure, and round again."""

from __future__ import annotations

from pathlib import Path

from ..artifact import Exporter
from ..errors import LessenError, did_you_mean
from ..folder import RunFolder
from ..job import Job
from ..plan import Plan, Treatment
from ..propose import chosen_layers, settings_of
from ..prune.channels import Channels
from ..report import Progress
from ..smoothing import smoothed_bench
from ..targets.locate import locate_all
from ..verify import Judge
from . import widths
from .found import Found
from .prepare import prepared
from .pricing import prices_of
from .track import Track


def original_file(job: Job, exporter: Exporter, folder: RunFolder) -> Path:
    """The float model in the target's runtime: the user's own ONNX file, or the export of the torch network."""
    path = Path(job.model.origin)
    if path.suffix.lower() == ".onnx" and path.is_file():
        return path
    return exporter.write_original(folder.scratch("baseline.onnx"))


def journey(
    job: Job, folder: RunFolder, progress: Progress, *, where: tuple[str, ...], skip: tuple[str, ...], rounds: int
) -> Found:
    """Looks for the cheapest plan that holds the budget."""
    bench = prepared(job, progress)
    allowed = chosen_layers(bench.traced.layers, where, skip)
    with progress.stage("baseline"):
        exporter = Exporter(job.target, bench, job.model.inputs, job.data.calibration)
        judge = Judge(job, original_file(job, exporter, folder))
        judge.original(job.data.validation)
    placed = locate_all(exporter.graph, bench.traced.layers)
    for name in bench.layers:
        if name not in placed and not allowed[name]:
            allowed[name] = "its weight is not a plain constant of the exported graph (inside a branch or computed)"
    with progress.stage("costs"):
        prices = prices_of(job, exporter)
    track = Track(job, judge, folder, progress, prices, allowed, rounds, bench)
    track.explore(bench, exporter)
    if not track.cheapest_holds:
        with progress.stage("smooth"):
            tamed = smoothed_bench(bench, exporter)
        if tamed is not None:
            track.explore(*tamed)
    for fraction in sorted(getattr(t, "fraction", 0.0) for t in settings_of(job.using) if isinstance(t, Channels)):
        wider = widths.shrunk(job, bench, Channels(fraction), progress)
        if wider is None or not track.explore(
            wider, Exporter(job.target, wider, job.model.inputs, job.data.calibration)
        ):
            break  # what loses too much at this width loses more at the next
    return track.settled()


def replayed(job: Job, plan: Plan, folder: RunFolder, progress: Progress) -> Found:
    """The plan carried out on the job's model, without any choosing."""
    if plan.model and plan.model != job.model.sha256():
        raise LessenError(
            "the plan was made for another network",
            where=job.model.origin,
            mend="remove `model:` from the plan to apply it all the same",
        )
    bench = prepared(job, progress)
    with progress.stage("baseline"):
        exporter = Exporter(job.target, bench, job.model.inputs, job.data.calibration)
        judge = Judge(job, original_file(job, exporter, folder))
    macs = bench.traced.macs
    if plan.channels:
        bench = widths.removed(job, bench, plan, progress)
        exporter = Exporter(job.target, bench, job.model.inputs, job.data.calibration)
    if plan.smooth is not None:
        variant = smoothed_bench(bench, exporter, plan.smooth)
        if variant is None:
            raise LessenError("there is nothing to smooth", where="plan, smooth", mend="remove `smooth:` from the plan")
        bench, exporter = variant
    for name in plan.layers:
        if name not in bench.layers:
            raise LessenError(f"the network has no layer {name!r}", where="plan", mend=did_you_mean(name, bench.layers))
    treatments = {name: plan.layers.get(name, Treatment()) for name in bench.layers}
    return Found(bench, exporter, judge, treatments, plan, macs_before=macs)
