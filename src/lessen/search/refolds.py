"""Variants whose weights were folded with AWQ's scales or with rotations: they compute the same and round otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..bench import Bench
from ..errors import LessenError
from ..job import Job
from ..memory import give_back
from ..propose import settings_of
from ..refold import AWQ, REFOLDS, Rotate, refolded
from ..report import Progress
from .prepare import statistics_of


def asked(job: Job) -> Iterator[AWQ | Rotate]:
    """What was asked for, types as all the settings they offer."""
    named: list[Any] = [t for t in job.using if (t if isinstance(t, type) else type(t)) in REFOLDS]
    yield from settings_of(named)  # type: ignore[misc]


def refolded_bench(job: Job, bench: Bench, how: AWQ | Rotate, progress: Progress) -> Bench:
    """The bench of the refolded network: the same graph, other weights, statistics of its own.

    Args:
        bench: of the network as it is.

    Raises:
        LessenError: nothing can be folded into it.
    """
    with progress.stage("refold"):
        made = refolded(how, bench.module, job.model.inputs, bench.traced.layers, bench.statistics)
    if not made.folded:
        raise LessenError(made.left[0][1] if made.left else "no layer's input can be scaled", where=type(how).__name__)
    progress.note(f"{type(how).__name__}: {len(made.folded)} folded, {len(made.left)} left as they are")
    traced = bench.traced.of(made.module)
    with progress.stage("statistics"):
        statistics = statistics_of(job, made.module, traced)
    give_back()
    return Bench(made.module, traced, statistics, bench.folded, refold=how)
