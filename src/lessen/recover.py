"""From treatments to a finished network: encode, and train through the codings where the plan says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

from .bench import Bench, Compressed, realize
from .data import Part
from .errors import LessenError
from .job import Job
from .plan import Treatment
from .train import Distillation, FineTune, copied, finetune, through_codings


def made(
    job: Job, bench: Bench, treatments: Mapping[str, Treatment], recover: Mapping[str, Any] | None = None,
    step: Callable[[int], object] = lambda n: None,
) -> Compressed:  # fmt: skip
    """The network coded, and fine-tuned with `recover` (settings of `FineTune`) if that is not empty.

    While it trains, every coded weight is what its coding decodes to; the scales and tables stay.
    """
    compressed = realize(bench, treatments)
    if not recover:
        return compressed
    if job.train is None:
        raise LessenError("the plan was fine-tuned", where="plan, recover", mend="give the same --train data")
    return _trained(job, compressed, settings_of(recover), job.train.calibration, step)


def _trained(
    job: Job, compressed: Compressed, settings: FineTune, part: Part, step: Callable[[int], object]
) -> Compressed:
    student = copied(compressed.module)
    pruned = frozenset(n for n, t in compressed.treatments.items() if n in compressed.codings and prunes(t.technique))
    with through_codings(student, compressed.layers, compressed.codings, pruned, compressed.scales) as codings:
        finetune(student, job.model.module, part, settings, step)
    return replace(compressed, module=student.requires_grad_(False), codings=dict(codings))


def prunes(technique: Any) -> bool:
    """Whether a technique (or a step of a stack) removes single weights."""
    steps = getattr(technique, "steps", (technique,))
    return any(type(s).__module__.startswith("lessen.prune") for s in steps)


def settings_of(values: Mapping[str, Any]) -> FineTune:
    """`FineTune` from plain values."""
    values = dict(values)
    taught = values.pop("distillation", {})
    try:
        return FineTune(**values, distillation=Distillation(**taught))
    except TypeError as error:
        raise LessenError(f"unknown setting: {error}", where="plan, recover") from error


def plain(settings: FineTune) -> dict[str, Any]:
    """The inverse of `settings_of`."""
    return asdict(settings)
