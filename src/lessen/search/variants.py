"""Variants: the network trained to be sparse, a bench of its own with its own statistics and its own curve."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..bench import Bench
from ..codings import Sparse
from ..errors import LessenError
from ..job import Job
from ..plan import Plan, Treatment
from ..propose import Prices
from ..prune.channels import Channels
from ..report import Progress
from ..solve import Candidate
from ..train import AsTrained, GroupLasso, Slimming, Sparsifier, Training
from ..train.blocks_method import Reconstruction
from ..training import fitted
from . import widths
from .prepare import prepared

STRUCTURED = (GroupLasso, Slimming)  # what they silence, `Channels` can take out


def ladders(job: Job) -> list[tuple[Sparsifier, ...]]:
    """The sparse training methods asked for: of each its settings, the mildest first.

    Raises:
        LessenError: there is one, but no data to train on.
    """
    asked = [t for t in job.using if isinstance(t, Sparsifier) or (isinstance(t, type) and issubclass(t, Sparsifier))]
    training = [t for t in job.using if hasattr(t, "fit") and not _is_calibrated(t)]
    if training and job.train is None:
        name = getattr(training[0], "__name__", type(training[0]).__name__)
        raise LessenError(f"{name} trains the network", where="--using", mend="give data to train on: --train DATA")
    return [t.offers() if isinstance(t, type) else (t,) for t in asked]


def _is_calibrated(t: Any) -> bool:
    """Whether calibration samples are all it takes."""
    return issubclass(t if isinstance(t, type) else type(t), Reconstruction)


def variant(job: Job, method: Training, progress: Progress) -> Bench:
    """The bench of the network after training; its zeros are masks, so that every technique keeps them.

    Raises:
        LessenError: it can't be trained this way.
    """
    assert job.train is not None
    with progress.stage("train", total=_steps(job, method)) as step:
        parts = (job.train.calibration, job.data.validation)
        module, told = fitted(job.model, method, parts, step, seed=job.seed)
    for note in told.notes:
        progress.note(f"{type(method).__name__}: {note}")
    bench = prepared(replace(job, model=replace(job.model, module=module)), progress)
    bench.trained, bench.edits = method, told.edits
    progress.note(f"{type(method).__name__}: {100 * zeros(bench):.2f} % of the layers' weights are zero")
    return masked(bench)


def _steps(job: Job, method: Any) -> int:
    assert job.train is not None
    return int(method.epochs) * getattr(method, "rounds", 1) * -(-job.train.calibration.n // int(method.batch_size))


def replayed(job: Job, plan: Plan, progress: Progress) -> Bench:
    """The variant that a plan names."""
    assert plan.trained is not None
    if job.train is None:
        raise LessenError("the plan's network was trained", where="plan, trained", mend="give the same --train data")
    return variant(job, plan.trained, progress)


def narrower(job: Job, bench: Bench, technique: Channels, progress: Progress) -> Bench | None:
    """`widths.shrunk`, of a network that was trained so that units can go."""
    made = widths.shrunk(job, bench, technique, progress)
    return None if made is None else inherited(made, bench)


def inherited(made: Bench, bench: Bench) -> Bench:
    """A narrower bench is a variant too where the one that it was cut from is."""
    made.trained = bench.trained
    return made if bench.trained is None else masked(made)


def structured(bench: Bench) -> bool:
    """Whether units of this variant were silenced."""
    return isinstance(bench.trained, STRUCTURED)


def masked(bench: Bench) -> Bench:
    """The bench with a mask on every layer that has zeros."""
    layers = tuple(replace(x, mask=m) if not bool((m := x.matrix != 0).all()) and bool(m.any()) else x
                   for x in bench.traced.layers)  # fmt: skip
    bench.traced = replace(bench.traced, layers=layers)
    return bench


def zeros(bench: Bench) -> float:
    """Share of zeros among the layers' weights."""
    total = sum(x.weight.numel() for x in bench.traced.layers)
    return sum(int((x.weight == 0).sum()) for x in bench.traced.layers) / max(total, 1)


def as_trained(items: Mapping[str, Sequence[Candidate]], bench: Bench, prices: Prices) -> dict[str, list[Candidate]]:
    """The candidates of a variant: a layer with zeros that is kept is kept as a mask and what survives it."""
    return {name: list(_kept_sparse(c, bench, prices)) for name, c in items.items()}


def _kept_sparse(candidates: Sequence[Candidate], bench: Bench, prices: Prices) -> Iterator[Candidate]:
    layer = bench.layers[candidates[0].item]
    for c in candidates:
        if c.choice == Treatment() and layer.mask is not None:
            coding: Sparse = AsTrained().encode(layer, None)
            c = replace(c, choice=Treatment(AsTrained()), nbytes=prices.nbytes(layer, coding))
        yield c
