"""From a job to the plan that holds its budget: prepare, propose, solve, measure, and round again."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..artifact import Exporter
from ..bench import Bench
from ..errors import LessenError, did_you_mean
from ..folder import RunFolder
from ..job import Job
from ..memory import give_back
from ..plan import Plan, Treatment
from ..propose import chosen_layers, settings_of
from ..prune.channels import Channels
from ..prune.depth import Depth
from ..quantize import AWQ
from ..quantize.dynamic import check_at_run_time
from ..refold import Rotate
from ..report import Progress
from ..smoothing import smoothed_bench
from ..targets.locate import locate_all
from ..targets.recurrent import places
from ..train import Sparsifier
from ..verify import Judge
from . import refolds, variants, widths
from .found import Found
from .order import forms
from .prepare import prepared
from .pricing import prices_of
from .settle import settled
from .shallow import shallower
from .track import Track
from .workshop import Workshop

SLOWER = "integers were measured to be slower than float on this network, so that its layers compute in float"


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
    ladders = variants.ladders(job)
    bench = prepared(job, progress)
    allowed = chosen_layers(bench.traced.layers, where, skip)
    with progress.stage("baseline"):
        exporter = Exporter(job.target, bench, job.model.inputs, job.data.calibration)
        judge = Judge(job, original_file(job, exporter, folder))
        judge.original(job.data.validation)
    give_back()
    placed = {*locate_all(exporter.graph, bench.traced.layers)}
    placed |= {p.layer.name for p in places(exporter.graph.graph, bench.traced.layers)}
    for name in bench.layers:
        if name not in placed and not allowed[name]:
            allowed[name] = "its weight is not a plain constant of the exported graph (inside a branch or computed)"
    with progress.stage("costs"):
        prices = prices_of(job, exporter)
    track = Track(Workshop(job, judge, folder, progress), prices, allowed, rounds, bench)
    _look(job, track, bench, exporter, progress)
    for how in refolds.asked(job):
        _refold(job, track, bench, how, progress)
    for ladder in ladders:
        _climb(job, track, ladder, progress)
    asked: tuple[Any, ...] = settings_of(job.using)
    _narrow(job, track, bench, [t for t in asked if isinstance(t, Channels)], progress)
    _shallow(job, track, bench, [t for t in asked if isinstance(t, Depth)], progress)
    return settled(track)


def _look(job: Job, track: Track, bench: Bench, exporter: Exporter, progress: Progress) -> None:
    """The network in its own width; should integers make it slower, once more without them."""
    for form in forms(job, bench, exporter, progress):
        track.explore(*form)
        if track.cheapest_holds:
            break
    track.everywhere()
    if not track.integers_pay() and track.floats_pay(bench, exporter):
        track.risks.append(SLOWER)


def _refold(job: Job, track: Track, plain: Bench, how: AWQ | Rotate, progress: Progress) -> None:
    """The same network in other weights: one more curve; the cheapest plan of all that hold is taken in the end."""
    try:
        bench = refolds.refolded_bench(job, plain, how, progress)
    except LessenError as error:
        track.risks.append(f"{type(how).__name__} could not be used: {error.what}")
        return
    track.explore(bench, Exporter(job.target, bench, job.model.inputs, job.data.calibration))


def _climb(job: Job, track: Track, ladder: Sequence[Sparsifier], progress: Progress) -> None:
    """Variants of one training method, the mildest first, until one loses too much."""
    for method in ladder:
        try:
            bench = variants.variant(job, method, progress)
        except LessenError as error:
            track.risks.append(f"{type(method).__name__} could not be used: {error.what}")
            return
        if not track.explore(bench, Exporter(job.target, bench, job.model.inputs, job.data.calibration)):
            return
        if variants.structured(bench):
            _narrow(job, track, bench, Channels.offers(), progress)


def _narrow(job: Job, track: Track, bench: Bench, settings: Iterable[Channels], progress: Progress) -> None:
    """Narrower networks, until one loses too much: what does at one width loses more at the next."""
    for technique in sorted(settings, key=lambda t: t.fraction):
        wider = variants.narrower(job, bench, technique, progress)
        if wider is None:
            continue  # rounded to channel counts that the target likes, nothing may go at a small share
        if not track.explore(wider, Exporter(job.target, wider, job.model.inputs, job.data.calibration)):
            return


def _shallow(job: Job, track: Track, bench: Bench, settings: Iterable[Depth], progress: Progress) -> None:
    """Networks without some of their residual blocks, until one loses too much."""
    for technique in sorted(settings, key=lambda t: t.blocks):
        made = shallower(job, bench, technique, progress)
        if made is None or not track.explore(made, Exporter(job.target, made, job.model.inputs, job.data.calibration)):
            return


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
    if plan.trained is not None:
        bench = variants.replayed(job, plan, progress)
    elif plan.refold is not None:
        bench = refolds.refolded_bench(job, bench, plan.refold, progress)
    if plan.channels:
        bench = variants.inherited(widths.removed(job, bench, plan, progress), bench)
    if plan.trained is not None or plan.refold is not None or plan.channels:
        exporter = Exporter(job.target, bench, job.model.inputs, job.data.calibration)
    if plan.smooth is not None:
        variant = smoothed_bench(bench, exporter, plan.smooth)
        if variant is None:
            raise LessenError("there is nothing to smooth", where="plan, smooth", mend="remove `smooth:` from the plan")
        bench, exporter = variant
    for name in plan.layers:
        if name not in bench.layers:
            raise LessenError(f"the network has no layer {name!r}", where="plan", mend=did_you_mean(name, bench.layers))
        if plan.layers[name].at_run_time:
            check_at_run_time(bench.layers[name], plan.layers[name].activations)
    treatments = {name: plan.layers.get(name, Treatment()) for name in bench.layers}
    why = {name: "kept: the plan does not name it" for name in bench.layers if name not in plan.layers}
    return Found(bench, exporter, judge, treatments, plan, why, macs_before=macs)
