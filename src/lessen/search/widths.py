"""Widths: benches with channels removed, fine-tuned where there is data to train on."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..bench import Bench
from ..errors import LessenError
from ..job import Job
from ..models import Layer, trace
from ..models.groups import Group, Grouping, Member, find_groups
from ..models.surgery import shrink_with_edits
from ..plan import Plan
from ..prune.channels import Channels, magnitude, taylor
from ..report import Progress
from ..train import FineTune, copied, finetune
from .compensate import compensate, second_order
from .prepare import statistics_of

SAMPLES, BATCH = 128, 8  # of the calibration part, for the importance of units


def shrunk(job: Job, bench: Bench, technique: Channels, progress: Progress) -> Bench | None:
    """The bench without the units that `technique` would remove; None where nothing can be removed."""
    with progress.stage("channels"):
        try:
            grouping = find_groups(bench.module, job.model.inputs)
            importance = _importance(job, bench, [g for g in grouping.groups if g.size > 1], technique)
            groups = [g for g in grouping.groups if g.name in importance]
            if not groups:
                return None
            multiple = int(dict(job.target.likes).get("int8", 1))
            units, harm = technique.rank(groups, importance, _costs(bench, groups), max(multiple, 1))
        except LessenError as error:
            progress.note(f"channels: {error}")
            return None
    return _cut(job, bench, grouping, units, harm, progress, job.train is not None) if units else None


def removed(job: Job, bench: Bench, plan: Plan, progress: Progress) -> Bench:
    """The bench without the units that a plan names, fine-tuned if it was when the plan was made."""
    if plan.tuned_widths and job.train is None:
        raise LessenError("the plan was fine-tuned", where="plan, tuned_widths", mend="give the same --train data")
    with progress.stage("channels"):
        grouping = find_groups(bench.module, job.model.inputs)
    made = _cut(job, bench, grouping, plan.channels, 0.0, progress, plan.tuned_widths)
    if made is None:
        raise LessenError("these channels can't be removed", where="plan, channels")
    return made


def _cut(
    job: Job,
    bench: Bench,
    grouping: Grouping,
    units: Mapping[str, tuple[int, ...]],
    harm: float,
    progress: Progress,
    tune: bool,
) -> Bench | None:
    with progress.stage("channels"):
        try:
            module = copy.deepcopy(bench.module)
            compensate(module, bench, {g.name: g for g in grouping.groups}, units)
            made = shrink_with_edits(module, {k: list(v) for k, v in units.items()}, job.model.inputs, grouping)
        except LessenError as error:
            progress.note(f"channels: {error}")
            return None
    module = made.model
    if tune:
        module = _tuned(job, module, progress)
    with progress.stage("trace"):
        traced = trace(module, job.model.inputs)
    with progress.stage("statistics"):
        statistics = statistics_of(job, module, traced)
    return Bench(module, traced, statistics, bench.folded, dict(units), made.edits, harm)


def _tuned(job: Job, module: nn.Module, progress: Progress) -> nn.Module:
    assert job.train is not None
    student, part, settings = copied(module), job.train.calibration, FineTune()
    with progress.stage("recover", total=settings.epochs * -(-part.n // settings.batch_size)) as step:
        finetune(student, job.model.module, part, settings, step)
    return student.requires_grad_(False)


def _importance(job: Job, bench: Bench, groups: Sequence[Group], technique: Channels) -> dict[str, Tensor]:
    """Predicted harm of removing each unit, by the technique's criterion."""
    if technique.criterion == "second_order":
        return second_order(bench, groups)
    module = copied(bench.module)
    owned = _owned(module, groups)
    if technique.criterion == "magnitude":
        return magnitude(owned)
    total = {g.name: torch.zeros(g.size, dtype=torch.float64) for g in groups}
    seen = 0
    for batch in job.data.calibration.head(SAMPLES).batches(BATCH):
        module.zero_grad(set_to_none=True)
        with torch.enable_grad():
            job.loss(module(*batch.inputs), batch).sum().backward()
        for name, squares in taylor(owned).items():
            total[name] += squares
        seen += batch.n
    return {name: t / (2 * max(seen, 1)) for name, t in total.items()}


def _owned(module: nn.Module, groups: Sequence[Group]) -> dict[str, list[tuple[Tensor, int, Tensor]]]:
    """The rows (weights and biases that make a unit's values) of each group."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    owned: dict[str, list[tuple[Tensor, int, Tensor]]] = {}
    for g in groups:
        rows = [m for m in g.members if m.path in parameters and m.path.rpartition(".")[0] in g.producers]
        rows = _outputs(rows) or [m for m in g.members if m.path in parameters][:1]
        owned[g.name] = [(parameters[m.path], m.dim, torch.as_tensor(m.index)) for m in rows]
    return {name: rows for name, rows in owned.items() if rows}


def _outputs(rows: Sequence[Member]) -> list[Member]:
    """A tensor may be in a group by two of its dimensions (a square recurrent weight); one of them counts."""
    kept: dict[str, Member] = {}
    for m in rows:
        kept.setdefault(m.path, m)
    return list(kept.values())


def _costs(bench: Bench, groups: Sequence[Group]) -> dict[str, float]:
    """What one unit costs: its share of the weights and multiply-adds of every layer that it runs through."""
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
                cost += share * (layer.weight.numel() / weights + layer.macs / macs)
        costs[g.name] = max(cost, 1e-9)
    return costs
