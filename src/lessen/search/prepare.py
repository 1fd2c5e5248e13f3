"""A network laid out for work: batch norms folded, traced, its statistics collected."""

from __future__ import annotations

from torch import nn

from ..bench import Bench
from ..job import Job
from ..memory import give_back
from ..models import Trace, fold_and_trace
from ..report import Progress
from ..statistics import Statistics, collect
from ..verify import one_sample

_LARGE_SAMPLE = 4096  # values of one sample above which fewer samples settle it: each brings many positions
_ENOUGH, _BACKWARD = 40, 8  # then: samples for the second moments, and for the Fisher information


def prepared(job: Job, progress: Progress) -> Bench:
    """The network with its batch norms folded, traced, and its statistics."""
    with progress.stage("trace"):
        module, folded, traced = fold_and_trace(job.model.module, job.model.inputs)
        progress.note(
            f"{len(folded)} batch norms folded, {len(traced.layers)} layers, {100 * traced.share:.1f} % covered"
        )
    with progress.stage("statistics"):
        statistics = statistics_of(job, module, traced)
    give_back()
    return Bench(module, traced, statistics, folded)


def statistics_of(job: Job, module: nn.Module, traced: Trace) -> dict[str, Statistics]:
    """What calibration learns of the layers; of large samples (pictures, sounds) a part settles it."""
    part = job.data.calibration
    large = sum(x[0].numel() for x in one_sample(part) if x.ndim) > _LARGE_SAMPLE
    if large:
        return collect(module, traced.layers, part.head(_ENOUGH).batches(), job.loss, _BACKWARD)
    return collect(module, traced.layers, part.batches(), job.loss)
