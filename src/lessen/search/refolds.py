"""Variants whose weights were folded with AWQ's scales or with rotations: they compute the same and round otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from ..bench import Bench
from ..errors import LessenError
from ..job import Job
from ..models import fold_batchnorm
from ..propose import settings_of
from ..refold import AWQ, REFOLDS, Rotate, refolded
from ..report import Progress
from .prepare import prepared


def asked(job: Job) -> Iterator[AWQ | Rotate]:
    """What was asked for, types as all the settings they offer."""
    named: list[Any] = [t for t in job.using if (t if isinstance(t, type) else type(t)) in REFOLDS]
    yield from settings_of(named)  # type: ignore[misc]


def refolded_bench(job: Job, how: AWQ | Rotate, progress: Progress) -> Bench:
    """The bench of the refolded network.

    Raises:
        LessenError: nothing can be folded into it.
    """
    with progress.stage("refold"):
        module, folded = fold_batchnorm(job.model.module, job.model.inputs)
        made = refolded(how, module, job.model.inputs, job.data.calibration.batches())
    if not made.folded:
        raise LessenError(made.left[0][1] if made.left else "no layer's input can be scaled", where=type(how).__name__)
    progress.note(f"{type(how).__name__}: {len(made.folded)} folded, {len(made.left)} left as they are")
    bench = prepared(replace(job, model=replace(job.model, module=made.module)), progress)
    bench.refold, bench.folded = how, folded
    return bench
