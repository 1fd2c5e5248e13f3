"""Depth: benches with residual blocks removed."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..bench import Bench
from ..errors import LessenError
from ..job import Job
from ..models import trace
from ..models.depth import Block, find_removable, without_blocks
from ..models.surgery.passed import pass_by
from ..prune.depth import Depth
from ..report import Progress
from ..train import Distillation, copied
from ..train.distill import first
from .prepare import statistics_of

PREFIX = "block "  # of a removed block among a plan's channels: "block encoder.layer.3": 0
SAMPLES, BATCH = 128, 32  # of the calibration part, for the harm of blocks


def shallower(job: Job, bench: Bench, technique: Depth, progress: Progress) -> Bench | None:
    """The bench without the blocks that `technique` would remove; None where they can't be removed."""
    try:
        return fewer(job, bench, technique, progress)
    except LessenError as error:
        progress.note(f"depth: {error}")
        return None


def fewer(job: Job, bench: Bench, technique: Depth, progress: Progress) -> Bench:
    """As `shallower`.

    Raises:
        LessenError: there are not so many residual blocks, or the network does not run without them.
    """
    with progress.stage("channels"):
        blocks, left = find_removable(bench.module, job.model.inputs)
        if not blocks:
            why = "; ".join(f"{n}: {r}" for n, r in left.items()) or "no module gives one of its inputs plus something"
            raise LessenError(f"the network has no residual block that can go: {why}", where="Depth")
        names, harm = technique.rank(_costs(bench, blocks), _Harm(job, bench, blocks))
    return without(job, bench, names, progress, harm)


def without(job: Job, bench: Bench, names: Sequence[str], progress: Progress, harm: float = 0.0) -> Bench:
    """The bench without these blocks.

    Raises:
        LessenError: one of them can't be removed.
    """
    with progress.stage("trace"):
        made = without_blocks(bench.module, names, job.model.inputs)
        traced = trace(made.model, job.model.inputs)
    with progress.stage("statistics"):
        statistics = statistics_of(job, made.model, traced)
    gone = {**bench.channels, **{PREFIX + n: (0,) for n in names}}
    folded = tuple(f for f in bench.folded if not any(f.startswith(f"{n}.") for n in names))
    return Bench(made.model, traced, statistics, folded, gone, (*bench.edits, *made.edits), bench.harm + harm)


def _costs(bench: Bench, blocks: Sequence[Block]) -> dict[str, float]:
    """The share of the multiply-adds and of the weights that goes with a block."""
    layers = bench.layers.values()
    weights, macs = sum(v.weight.numel() for v in layers), max(sum(v.macs for v in layers), 1)
    inside = {
        b.name: [v for v in layers if v.module in b.alone or f"{v.module}.".startswith(f"{b.name}.")] for b in blocks
    }
    costs = {n: sum(v.weight.numel() / weights + v.macs / macs for v in found) for n, found in inside.items()}
    return {n: c for n, c in costs.items() if c > 0}


class _Harm:
    """Distance of the outputs from those of the whole network: KL divergence of classes, else relative error."""

    def __init__(self, job: Job, bench: Bench, blocks: Sequence[Block]) -> None:
        self.module, self.blocks = bench.module, {b.name: b for b in blocks}
        self.batches = list(job.data.calibration.head(SAMPLES).batches(BATCH))
        self.wanted = self._outputs(self.module)

    def __call__(self, names: tuple[str, ...]) -> float:
        shallow = copy.copy(copied(self.module))
        for name in names:
            pass_by(shallow, name, self.blocks[name].place, self.blocks[name].outputs)
        distance, found = Distillation(alpha=1.0, temperature=1.0), self._outputs(shallow)
        return sum(float(distance(a, b, batch.labels)) for a, b, batch in zip(found, self.wanted, self.batches))

    @torch.no_grad()
    def _outputs(self, module: nn.Module) -> list[Tensor]:
        return [first(module(*batch.inputs)) for batch in self.batches]
