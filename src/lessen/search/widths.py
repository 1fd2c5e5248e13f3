"""Widths: benches with channels removed, fine-tuned where there is data to train on."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from torch import nn

from ..bench import Bench
from ..errors import LessenError
from ..job import Job
from ..models import Layer, trace
from ..models.groups import Group, Grouping
from ..plan import Plan
from ..prune.channels import Channels
from ..report import Progress
from ..targets import Target
from ..train import FineTune, copied, finetune
from .compensate import compensate
from .heads import WIDTH, grouped, without_units
from .importance import importance_of
from .prepare import statistics_of
from .shallow import PREFIX, without


def shrunk(job: Job, bench: Bench, technique: Channels, progress: Progress) -> Bench | None:
    """The bench without the units that `technique` would remove; None where nothing can be removed."""
    try:
        return narrower(job, bench, technique, progress)
    except LessenError as error:
        progress.note(f"channels: {error}")
        return None


def narrower(job: Job, bench: Bench, technique: Channels, progress: Progress) -> Bench:
    """As `shrunk`.

    Raises:
        LessenError: nothing can be removed; the reason, and where.
    """
    with progress.stage("channels"):
        grouping = grouped(bench.module, job.model.inputs, technique.head_width)
        able = [g for g in grouping.groups if g.size > 1]
        importance = importance_of(job, bench, able, technique.criterion)
        groups = [g for g in able if g.name in importance]
        if not groups:
            raise _nothing(grouping, technique)
        size = 1.0 if job.budget.max_latency is None else 0.1  # only the time is asked for
        units, harm = technique.rank(groups, importance, costs_of(bench, groups, size), multiple_of(job.target))
    if not units:
        raise LessenError(
            f"{technique.fraction:.0%} is less than one multiple of channels in every group",
            where=", ".join(g.name for g in groups[:3]),
            mend="remove a larger fraction, or give Channels(multiple=1)",
        )
    return _cut(job, bench, grouping, units, harm, progress, job.train is not None)


def _nothing(grouping: Grouping, technique: Channels) -> LessenError:
    if grouping.groups:
        what = f"{technique.criterion} tells nothing of these groups"
        return LessenError(what, where=", ".join(g.name for g in grouping.groups[:3]), mend="take another criterion")
    left = next(iter(grouping.left), None)
    why = "it has no dimensions" if left is None else f"{left.reason} ({left.name}, dimension {left.dim})"
    return LessenError(f"no group of units can shrink: {why}", where="the network", mend="see find_groups(...).left")


def removed(job: Job, bench: Bench, plan: Plan, progress: Progress) -> Bench:
    """The bench without the units that a plan names, fine-tuned if it was when the plan was made."""
    if plan.tuned_widths and job.train is None:
        raise LessenError("the plan was fine-tuned", where="plan, tuned_widths", mend="give the same --train data")
    blocks = [name.removeprefix(PREFIX) for name in plan.channels if name.startswith(PREFIX)]
    units = {name: u for name, u in plan.channels.items() if not name.startswith(PREFIX)}
    bench = without(job, bench, blocks, progress) if blocks else bench
    if not units:
        return bench
    with progress.stage("channels"):
        grouping = grouped(bench.module, job.model.inputs, any(name.startswith(WIDTH) for name in units))
    return _cut(job, bench, grouping, units, 0.0, progress, plan.tuned_widths)


def _cut(
    job: Job,
    bench: Bench,
    grouping: Grouping,
    units: Mapping[str, tuple[int, ...]],
    harm: float,
    progress: Progress,
    tune: bool,
) -> Bench:
    with progress.stage("channels"):
        module = copy.deepcopy(bench.module)
        compensate(module, bench, {g.name: g for g in grouping.groups}, units)
        module, edits = without_units(module, units, job.model.inputs, grouping)
    if tune:
        module = _tuned(job, module, progress)
    with progress.stage("trace"):
        traced = trace(module, job.model.inputs)
    with progress.stage("statistics"):
        statistics = statistics_of(job, module, traced)
    gone = {**bench.channels, **units}
    return Bench(module, traced, statistics, bench.folded, gone, (*bench.edits, *edits), bench.harm + harm)


def _tuned(job: Job, module: nn.Module, progress: Progress) -> nn.Module:
    assert job.train is not None
    student, part, settings = copied(module), job.train.calibration, FineTune()
    with progress.stage("recover", total=settings.epochs * -(-part.n // settings.batch_size)) as step:
        finetune(student, job.model.module, part, settings, step)
    return student.requires_grad_(False)


def multiple_of(target: Target) -> int:
    """Channel counts that the target's integer kernels like; 1 for a target that only stores.

    `Channels(multiple=16)` is for networks that stay in float there (see `likes`).
    """
    return max(1, dict(target.likes).get("int8", 1))


def costs_of(bench: Bench, groups: Sequence[Group], size: float = 1.0) -> dict[str, float]:
    """What one unit costs: its share of the multiply-adds and weights of every layer that it runs through.

    Args:
        size: what a share of the weights counts beside the same share of the multiply-adds.
    """
    layers: dict[str, Layer] = bench.layers
    weights = sum(layer.weight.numel() for layer in layers.values())
    macs = max(sum(layer.macs for layer in layers.values()), 1)
    costs = {}
    for g in groups:
        cost = 0.0
        for m in g.members:
            layer = layers.get(m.path)
            if layer is not None:
                share = (
                    m.index.shape[-1] / layer.weight.shape[m.dim] if m.index.ndim > 1 else 1 / layer.weight.shape[m.dim]
                )
                cost += share * (size * layer.weight.numel() / weights + layer.macs / macs)
        costs[g.name] = max(cost, 1e-9)
    return costs
