"""Where quantization-aware training starts: the best post-training result that there is."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from .bench import Bench
from .in_turn import realize_in_turn
from .models import trace
from .plan import Treatment
from .statistics import collect
from .train.blocks_method import Reconstruction
from .train.method import Lesson
from .train.qat import QuantizationAware, Quantized
from .train.qat_start import SAMPLES, Start

_IN_TURN = 512  # samples that are under way at once


def fit_in_turn(method: QuantizationAware | Reconstruction, student: nn.Module, lesson: Lesson) -> Quantized:
    """`method.fit`, from weights that were rounded layer by layer, each for what the rounded ones before it give."""
    if isinstance(method, Reconstruction):  # it is to give what the float network's own parts do
        lesson = replace(lesson, teacher=copy.deepcopy(student))
    start = started_in_turn(method, student, lesson)
    return method.fit_from(start if method.activations else replace(start, inputs=()), student, lesson)


def started_in_turn(method: QuantizationAware | Reconstruction, student: nn.Module, lesson: Lesson) -> Start:
    """The start, with its decoded weights and corrected biases put into the student."""
    part, technique = lesson.part, method.grid
    batch: tuple[Tensor, ...] = next(part.batches(2)).inputs
    traced = replace(trace(student, batch), layers=lesson.layers)
    bench = Bench(student, traced, collect(student, lesson.layers, part.head(SAMPLES).batches()))
    usable = {x.name: Treatment(technique) for x in lesson.layers}
    made = realize_in_turn(bench, usable, part.head(_IN_TURN).batches())
    with torch.no_grad():
        for name, p in made.module.named_parameters():
            student.get_parameter(name).copy_(p)
    inputs = tuple(n for n in made.codings if bench.layers[n].kind != "embedding")
    return Start(bench.layers, made.codings, inputs)
