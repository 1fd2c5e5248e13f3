"""What each technique would bring, from corners of the largest layers: a forecast, made in seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .codings import Coding, Dense, LowRank
from .errors import LessenError
from .models import Layer
from .plan import Treatment
from .propose import Prices, is_integer_grid
from .report import TechniqueForecast
from .statistics import Statistics
from .targets import Packed
from .technique import describe

_CORNER = 16384  # weights of a layer that are tried; a forecast needs no more
_GROUPS = 128  # columns: a multiple of every group that shares a scale, of every N:M
_LAYERS = 6  # the largest ones stand for the rest


def corner(layer: Layer, most: int = _CORNER) -> Layer:
    """The layer with at most about `most` of its weights, outputs and inputs cut in the same proportion."""
    size = layer.weight.numel()
    if size <= most:
        return layer
    share = (most / size) ** 0.5
    columns = min(layer.weight.shape[1], -(-round(layer.weight.shape[1] * share) // _GROUPS) * _GROUPS)
    kernel = size // (layer.weight.shape[0] * layer.weight.shape[1])
    rows = min(layer.weight.shape[0], max(-(-most // (8 * kernel * columns)) * 8, 8))
    return dataclasses.replace(layer, weight=layer.weight[:rows, :columns].contiguous(), groups=1)


def fitting(layers: Sequence[Layer], techniques: dict[str, type]) -> dict[str, tuple[str, ...]]:
    """By layer, the names of the techniques that can hold it; layers of one shape are asked once."""
    known: dict[Any, tuple[str, ...]] = {}
    found = {}
    for layer in layers:
        small = _least(layer)
        key = (layer.kind, small.shape, layer.groups > 1, layer.shape[1] == small.shape[1])
        if key not in known:
            known[key] = tuple(
                n for n, t in techniques.items() if any(_encoded(small, s) is not None for s in _three(t))
            )
        found[layer.name] = known[key]
    return found


def _least(layer: Layer) -> Layer:
    """A still smaller corner, enough to see who takes such a layer."""
    return corner(layer, 4096)


def forecasts(
    layers: Sequence[Layer], techniques: dict[str, type], prices: Prices, others: int
) -> list[TechniqueForecast]:
    """The network as it is, then at most three settings of each technique, the mildest to the strongest.

    Args:
        layers: what can be worked on.
        techniques: name -> type.
        prices: bytes and seconds on the target.
        others: bytes of all that is no layer.
    """
    tried = [(layer, corner(layer)) for layer in sorted(layers, key=lambda x: -x.weight.numel())[:_LAYERS]]
    whole = 4 * sum(layer.weight.numel() for layer in layers)
    seconds = sum(prices.seconds(layer, Dense(layer.matrix), False) for layer in layers)
    before = _Share(1.0, 1.0, 1.0)
    rows = [_row("as it is", before, whole, others, seconds, "")]
    for technique in techniques.values():
        for setting in _three(technique):
            share = _tried(tried, setting, prices)
            if share is not None:
                rows.append(_row(_label(setting), share, whole, others, seconds, _note(setting, share)))
    return rows


@dataclass(frozen=True)
class _Share:
    """What is left of the float layers: of their bytes in the target's file, packed, and of their time."""

    file: float
    packed: float
    time: float


def _row(label: str, share: _Share, whole: int, others: int, seconds: float, note: str) -> TechniqueForecast:
    file, packed = round(whole * share.file) + others, round(whole * share.packed) + others
    return TechniqueForecast(
        label, file, (whole + others) / max(file, 1), 1e3 * seconds * share.time or None, note, packed
    )


def _tried(layers: Sequence[tuple[Layer, Layer]], setting: Any, prices: Prices) -> _Share | None:
    """The mean over the layers, weighted by their parameters; layers that can't be held this way stay as they are."""
    total = file = packed = before = after = 0.0
    held = 0
    for layer, small in layers:
        coding, size = _encoded(small, setting), float(layer.weight.numel())
        plain = prices.seconds(layer, Dense(layer.matrix), False)
        total, before = total + size, before + plain
        if coding is None:
            file, packed, after = file + size, packed + size, after + plain
            continue
        held += 1
        whole = 4 * small.weight.numel()
        file += size * min(prices.nbytes(small, coding) / whole, 1)
        packed += size * min(Packed().nbytes(small, coding) / whole, 1)
        after += _seconds(layer, coding, plain, prices, Treatment.of(setting))
    if not held:
        return None
    return _Share(file / total, packed / total, after / before if before else 1.0)


def _seconds(layer: Layer, coding: Coding, plain: float, prices: Prices, asked: Treatment) -> float:
    if isinstance(coding, LowRank):
        rows, columns = coding.shape
        return plain * min(coding.rank * (rows + columns) / (rows * columns), 1)
    if asked.at_run_time:
        return prices.seconds(layer, coding, prices.finds_ranges(layer, coding) and str(asked.activations))
    integer = is_integer_grid(coding) and prices.runs_integers(layer, coding)
    return prices.seconds(layer, coding, integer)


def _encoded(layer: Layer, setting: Any) -> Coding | None:
    try:
        return setting.encode(layer, Statistics())
    except LessenError:
        return None


def _three(technique: type) -> Iterator[Any]:
    offers = technique.offers()  # type: ignore[attr-defined]
    if offers:  # what only has meaning with settings of one's own offers none
        yield from dict.fromkeys((offers[0], offers[len(offers) // 2], offers[-1]))


def _label(setting: Any) -> str:
    steps = getattr(setting, "steps", None)
    if isinstance(steps, tuple):
        return " + ".join(map(_label, steps))
    first = next((f.name for f in dataclasses.fields(setting)), None)  # what it is mostly about: bits, sparsity, rank
    shown = {k: getattr(setting, k) for k in dict.fromkeys((first, *describe(setting))) if k and k != "technique"}
    return f"{type(setting).__name__}({', '.join(f'{k}={v}' for k, v in shown.items())})"


def zeros_note(target: str, skips: float | None = None) -> str:
    """Before anything is pruned: what zeros will bring there.

    Args:
        skips: share of zeros from which linear layers in integers get quicker; None: never.
    """
    if skips is not None:
        return (
            f"zeros make the packed file smaller; {target} passes over them in large linear layers of 8-bit integers "
            f"from {100 * skips:g} % on, on this CPU, and nowhere else (2:4 needs a GPU). Removed channels, low rank "
            "and 8-bit integers save time"
        )
    return (
        f"zeros and shared values make the packed file smaller; {target} computes with them as with any others, at any "
        "sparsity (2:4 needs a GPU). Removed channels, low rank and 8-bit integers save time"
    )


def _note(setting: Any, share: _Share) -> str:
    room = type(setting).__module__.split(".")[1]
    if room == "prune":
        return "zeros: no speed"
    if room == "share":
        return "indices: no speed"
    if share.time > 1.1:
        return "slower here"
    return "no faster here" if share.time > 0.97 and share.time != 1.0 else ""
