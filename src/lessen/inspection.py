"""`lessen inspect`: what is in a network, what can be done, and what each technique would bring. A forecast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .bench import Bench
from .codings import Dense
from .errors import LessenError
from .data import load_data
from .job import example_like
from .models import Layer, fold_batchnorm, load, trace
from .report import LayerForecast, TechniqueForecast
from .statistics import Statistics
from .targets import target as target_named
from .techniques import known


@dataclass(frozen=True)
class Inspection:
    """Tables for `print_inspect`."""

    layers: tuple[LayerForecast, ...]
    techniques: tuple[TechniqueForecast, ...]
    notes: tuple[str, ...]


def inspect(model: Any, data: Any = None, target: Any = "onnxruntime", trust: bool = False) -> Inspection:
    """What can be done with a network, without doing it.

    Args:
        model: as for `compress`.
        data: samples; without, the network must say what it takes (ONNX files do).
        target: where it would run.
        trust: whether pickles may be opened.
    """
    opened, place = load(model, trust=trust), target_named(target)
    like = example_like(opened)
    if data is not None:
        inputs = next(load_data(data, like=like).calibration.batches(2)).inputs
    elif isinstance(like, dict):
        inputs = tuple(like.values())
    else:
        raise LessenError("its inputs are not known", where=opened.origin, mend="give --data")
    opened = opened.with_inputs(tuple(torch.as_tensor(x) for x in inputs))
    module, folded = fold_batchnorm(opened.module, opened.inputs)
    traced = trace(module, opened.inputs)
    bench = Bench(module, traced, {}, folded)
    settings = [s for t in known().values() if hasattr(t, "encode") for s in t.offers()]
    fits = {layer.name: _fitting(bench, layer, settings) for layer in traced.layers}
    rows = tuple(_layer_row(layer, fits[layer.name]) for layer in traced.layers)
    notes = [f"{100 * traced.share:.1f} % of the parameters can be worked on"]
    notes += [f"{name} is left: {why}" for name, why in traced.left[:10]]
    notes += [traced.why] if traced.why else []
    return Inspection(rows, tuple(_forecasts(bench, traced.layers, settings, place, opened.parameters)), tuple(notes))


def _fitting(bench: Bench, layer: Layer, settings: Sequence[Any]) -> tuple[str, ...]:
    """Names of the techniques that can hold the layer; tried on a small corner of it, which takes no time."""
    names: dict[str, None] = {}
    for setting in settings:
        try:
            setting.encode(layer, Statistics()) if layer.weight.numel() <= 20000 else None
            names.setdefault(type(setting).__name__)
        except LessenError:
            continue
    return tuple(names)


def _layer_row(layer: Layer, fits: tuple[str, ...]) -> LayerForecast:
    return LayerForecast(layer.name, layer.kind, tuple(layer.weight.shape), layer.weight.numel(), layer.macs, fits)


def _forecasts(
    bench: Bench, layers: Sequence[Layer], settings: Sequence[Any], place: Any, parameters: int
) -> list[TechniqueForecast]:
    before = sum(place.nbytes(layer, Dense(layer.matrix)) for layer in layers)
    rest = 4 * (parameters - sum(layer.weight.numel() for layer in layers))
    rows = []
    for setting in settings:
        after = sum(_bytes(bench, layer, setting, place) for layer in layers)
        words = ", ".join(f"{k}={v}" for k, v in _options(setting).items())
        rows.append(TechniqueForecast(f"{type(setting).__name__}({words})", after + rest, (before + rest) / max(after + rest, 1),
                                      note=_note(setting, place)))  # fmt: skip
    return rows


def _options(setting: Any) -> dict[str, Any]:
    from .technique import describe

    return {k: v for k, v in describe(setting).items() if k != "technique"}


def _bytes(bench: Bench, layer: Layer, setting: Any, place: Any) -> int:
    try:
        return int(place.nbytes(layer, bench.coding(layer, setting)))
    except LessenError:
        return int(place.nbytes(layer, Dense(layer.matrix)))


def _note(setting: Any, place: Any) -> str:
    kind = type(setting).__module__.split(".")[1]
    if kind == "prune":
        return f"zeros make the packed file smaller; they bring no speed in {place.name}"
    if kind == "share":
        return "stored as indices, computed in float: smaller, not faster"
    return ""
