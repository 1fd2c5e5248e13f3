"""`lessen inspect`: what is in a network, what can be done, and what each technique would bring. A forecast."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .data import load_data
from .errors import LessenError
from .forecast import fitting, forecasts, zeros_note
from .job import example_like
from .models import Layer, Model, Trace, fold_and_trace, load
from .report import LayerForecast, TechniqueForecast
from .search.pricing import TargetPrices
from .targets import LayerCosts, Target, float_onnx
from .targets import target as target_named
from .techniques import known


@dataclass(frozen=True)
class Inspection:
    """Tables for `print_inspect`."""

    layers: tuple[LayerForecast, ...]
    techniques: tuple[TechniqueForecast, ...]
    notes: tuple[str, ...]


def inspect(model: Any, data: Any = None, target: Any = "onnxruntime", trust: bool = False) -> Inspection:
    """What can be done with a network, without doing it: sizes from corners of its largest layers, time by its profile.

    Args:
        model: as for `compress`.
        data: samples, or the shape of one, (3, 224, 224); without, the network must say what it takes.
        target: where it would run.
        trust: whether pickles may be opened.
    """
    place = target_named(target)
    opened = load(model, trust=trust)
    opened = opened.with_inputs(_inputs(opened, data))
    module, _, traced = fold_and_trace(opened.module, opened.inputs)
    prices, why = _prices(place, module, traced, opened.inputs)
    techniques = {name: t for name, t in known().items() if hasattr(t, "encode") and t.offers()}  # type: ignore[attr-defined]
    others = 4 * (opened.parameters - sum(layer.weight.numel() for layer in traced.layers))
    fits = fitting(traced.layers, techniques)
    rows = tuple(_layer_row(layer, fits[layer.name], techniques) for layer in traced.layers)
    brings = forecasts(traced.layers, techniques, prices, max(others, 0)) if traced.layers else []
    return Inspection(rows, tuple(brings), tuple(_notes(traced, why, place)))


def _inputs(model: Model, data: Any) -> tuple[Tensor, ...]:
    like = example_like(model)
    if isinstance(data, tuple) and data and all(isinstance(n, int) for n in data):
        return (torch.zeros(1, *data),)
    if data is not None:
        return next(load_data(data, like=like).calibration.batches(2)).inputs
    if isinstance(like, dict):
        return tuple(like.values())
    raise LessenError(
        f"does not tell what it takes{_known_inputs(model.module)}", where=model.origin,
        mend="give --data, or for a single input --input-shape 3x224x224",
    )  # fmt: skip


def _known_inputs(module: nn.Module) -> str:
    """What an ONNX file says of its inputs, sizes that it leaves open as "?"."""
    names, shapes = getattr(module, "input_names", None), getattr(module, "input_shapes", None)
    if not names or not shapes:
        return ""
    return f": its inputs are {', '.join(f'{n} {_sizes(s)}' for n, s in zip(names, shapes, strict=True))}"


def _sizes(shape: Sequence[object] | None) -> str:
    if shape is None:
        return "of any shape"
    return f"[{', '.join(str(d) if isinstance(d, int) and d > 0 else '?' for d in shape)}]"


def _prices(place: Target, module: nn.Module, traced: Trace, inputs: tuple[Tensor, ...]) -> tuple[TargetPrices, str]:
    """Bytes, and seconds from the runtime's profile of the float network; and why there are none."""
    if not place.executes:
        return TargetPrices(place), ""
    table = LayerCosts(place)
    try:
        table.prepare(float_onnx(module, inputs, fixed=True), traced.layers, inputs, ("dynamic", "token"))
    except LessenError as error:
        return TargetPrices(place), f"no times: {error.what}"
    return TargetPrices(place, table, frozenset(x.name for x in traced.layers if x.kind == "linear")), ""


def _layer_row(layer: Layer, fits: Sequence[str], techniques: Collection[str]) -> LayerForecast:
    shape, said = tuple(layer.weight.shape), _shortly(fits, techniques)
    return LayerForecast(layer.name, layer.kind, shape, layer.weight.numel(), layer.macs, said)


def _shortly(fits: Sequence[str], techniques: Collection[str]) -> tuple[str, ...]:
    """All, all but a few, or a few: a table has one line for a layer."""
    rest = tuple(n for n in techniques if n not in fits)
    if not rest:
        return ("all",)
    return (f"all but {rest[0]}", *rest[1:]) if len(rest) < len(fits) else tuple(fits)


def _notes(traced: Trace, why: str, place: Target) -> Iterator[str]:
    yield f"{100 * traced.share:.1f} % of the parameters can be worked on"
    yield from _left(traced.left)
    yield from (text for text in (traced.why, why) if text)
    yield zeros_note(place.name, getattr(place, "skips_zeros", None))
    yield "sizes are judged from corners of the 6 largest layers; time is the layers' sum on one core"
    if place.executes:
        yield "Channels and stacks of techniques come on top; lessen compress tries them and measures"


def _left(left: Sequence[tuple[str, str]]) -> Iterator[str]:
    yield from (f"{name} is left: {why}" for name, why in left[:5])
    if len(left) > 5:
        yield f"{len(left) - 5} more are left"
