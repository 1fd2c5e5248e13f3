"""From treatments to a finished network: encode, and train through the codings where the plan says so."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

from . import techniques
from .bench import Bench, Compressed, realize
from .codings import Grid
from .data import Part
from .errors import LessenError
from .in_turn import realize_in_turn, under_way
from .job import Job
from .memory import twin
from .plan import Treatment
from .quantize import Uniform
from .technique import describe
from .train import Distillation, FineTune, copied, finetune, through_codings
from .train.blocks_method import Reconstruction
from .train.lsq import LSQ
from .train.method import Lesson
from .train.qat import QuantizationAware
from .train.qat_inputs import remove_inputs
from .train.qat_start import Start

_FEW_BITS = 4  # above, rounding has nothing left to learn
Recovery = FineTune | QuantizationAware | Reconstruction


def made(
    job: Job, bench: Bench, treatments: Mapping[str, Treatment], recover: Mapping[str, Any] | None = None,
    step: Callable[[int], object] = lambda n: None, in_turn: bool = False,
) -> Compressed:  # fmt: skip
    """The network coded, and trained with `recover` (plain values of a `Recovery`) if that is not empty.

    With `in_turn` each layer is coded for what the layers coded before it hand it (`realize_in_turn`). While the
    network trains, every coded weight is what its coding decodes to. `FineTune` leaves scales and tables;
    quantization-aware training also learns the steps of grids, and the ranges of what integer layers read.
    `Reconstruction` learns the rounding of grids on the calibration samples.
    """
    compressed = _in_turn(job, bench, treatments) if in_turn else realize(bench, treatments)
    if not recover:
        return compressed
    settings = settings_of(recover)
    if isinstance(settings, Reconstruction):
        return _reconstructed(job, bench, compressed, settings, step)
    if job.train is None:
        raise LessenError("the plan was fine-tuned", where="plan, recover", mend="give the same --train data")
    if isinstance(settings, QuantizationAware):
        return _aware(job, compressed, settings, job.train.calibration, step)
    return _trained(job, compressed, settings, job.train.calibration, step)


def _in_turn(job: Job, bench: Bench, treatments: Mapping[str, Treatment]) -> Compressed:
    """Made once for a plan that is measured, tested and written; every caller gets a network of its own."""
    if bench.turned is None or bench.turned[0] != treatments:
        made = realize_in_turn(bench, treatments, under_way(bench, job.data.calibration).batches())
        bench.turned = (dict(treatments), made)
    kept = bench.turned[1]
    return replace(kept, module=twin(kept.module))


def coders(using: Iterable[Any]) -> Iterator[Any]:
    """The techniques among `using` that encode layers; for methods that train or round grids these grids."""
    for t in using:
        if _is_a(t, (QuantizationAware, Reconstruction)):
            settings: tuple[Any, ...] = t.offers() if isinstance(t, type) else (t,)  # type: ignore[attr-defined]
            yield from (Uniform(m.bits, m.per) for m in settings)
        elif hasattr(t, "encode"):
            yield t


def _is_a(t: Any, kinds: type | tuple[type, ...]) -> bool:
    return issubclass(t if isinstance(t, type) else type(t), kinds)


def recovery_for(job: Job, treatments: Mapping[str, Treatment]) -> FineTune | QuantizationAware:
    """With quantized activations where layers run on integers, by the method that was asked for; else without."""
    if not any(t.activations for t in treatments.values()):
        return FineTune()
    asked = (t() if isinstance(t, type) else t for t in job.using if _is_a(t, QuantizationAware))
    return next(asked, LSQ(bits=8, activations=8))


def reconstruction_for(job: Job, bench: Bench, treatments: Mapping[str, Treatment]) -> Reconstruction | None:
    """The method of learned rounding that was asked for, where the plan has grids of so few bits that it can gain."""
    asked = next((t() if isinstance(t, type) else t for t in job.using if _is_a(t, Reconstruction)), None)
    layers, coded = bench.layers, {n: t.technique for n, t in treatments.items() if t.technique is not None}
    codings = (bench.coding(layers[n], t) for n, t in coded.items() if n not in bench.scales)
    return asked if any(isinstance(c, Grid) and c.bits <= _FEW_BITS for c in codings) else None


def _reconstructed(
    job: Job, bench: Bench, compressed: Compressed, method: Reconstruction, step: Callable[[int], object]
) -> Compressed:
    """Pruned layers and smoothed ones stay as they are."""
    student, pruned = copied(compressed.module), _pruned(compressed)
    layers = {n: x for n, x in bench.layers.items() if n not in compressed.scales and n not in pruned}
    start = Start(layers, {n: c for n, c in compressed.codings.items() if n in layers})
    lesson = Lesson(bench.module, tuple(layers.values()), job.data.calibration, seed=job.seed, step=step)
    learned = method.fit_from(start, student, lesson)
    codings = {**compressed.codings, **learned.codings}
    return replace(compressed, module=student.requires_grad_(False), codings=codings)


def _aware(
    job: Job, compressed: Compressed, method: QuantizationAware, part: Part, step: Callable[[int], object]
) -> Compressed:
    """Layers that run on integers read fake-quantized inputs; smoothed ones, whose input is another, float ones."""
    student, layers = copied(compressed.module), compressed.layers
    integer = tuple(
        n for n, t in compressed.treatments.items()
        if t.activations == 8 and isinstance(compressed.codings.get(n), Grid) and n not in compressed.scales
    )  # fmt: skip
    start = Start(layers, compressed.codings, integer, _pruned(compressed), compressed.scales)
    lesson = Lesson(job.model.module, tuple(layers.values()), part, seed=job.seed, step=step)
    trained = replace(method, activations=8).fit_from(start, student, lesson)
    remove_inputs(student)
    return replace(
        compressed, module=student.requires_grad_(False), codings=dict(trained.codings), inputs=trained.inputs
    )


def _pruned(compressed: Compressed) -> frozenset[str]:
    """Names of the coded layers whose zeros stay: of pruned ones, and of those that training left with zeros."""
    return frozenset(
        n for n, t in compressed.treatments.items()
        if n in compressed.codings and (prunes(t.technique) or compressed.layers[n].mask is not None)
    )  # fmt: skip


def _trained(
    job: Job, compressed: Compressed, settings: FineTune, part: Part, step: Callable[[int], object]
) -> Compressed:
    student, pruned = copied(compressed.module), _pruned(compressed)
    with through_codings(student, compressed.layers, compressed.codings, pruned, compressed.scales) as codings:
        finetune(student, job.model.module, part, settings, step)
    return replace(compressed, module=student.requires_grad_(False), codings=dict(codings))


def prunes(technique: Any) -> bool:
    """Whether a technique (or a step of a stack) removes single weights."""
    steps = getattr(technique, "steps", (technique,))
    return any(type(s).__module__.startswith("lessen.prune") for s in steps)


def settings_of(values: Mapping[str, Any]) -> Recovery:
    """`FineTune` from plain values, or the quantization-aware method that `technique` names."""
    values = dict(values)
    if "technique" in values:
        return _method(values)
    taught = values.pop("distillation", {})
    try:
        return FineTune(**values, distillation=Distillation(**taught))
    except TypeError as error:
        raise LessenError(f"unknown setting: {error}", where="plan, recover") from error


def _method(values: dict[str, Any]) -> QuantizationAware | Reconstruction:
    made = techniques.build(values, "plan, recover")
    if not isinstance(made, (QuantizationAware, Reconstruction)):
        raise LessenError(f"{values['technique']} can't be used to recover", where="plan, recover", mend="use LSQ")
    return made


def plain(settings: Recovery) -> dict[str, Any]:
    """The inverse of `settings_of`."""
    return asdict(settings) if isinstance(settings, FineTune) else describe(settings)
