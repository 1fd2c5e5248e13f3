"""What was asked for and a target stores, but does not compute with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..codings import Coding, Grid
from ..models.layer import Layer
from .target import Target

NAMED = 3  # layers, before the rest is only counted


def stored_only(target: Target, layers: Iterable[Layer], codings: Mapping[str, Coding]) -> list[str]:
    """One sentence for each number of bits that the target makes wider before it multiplies.

    Empty for a target that executes nothing in integers: nobody expects it to.
    """
    found: dict[tuple[int, tuple[int, ...]], list[str]] = {}
    for layer in layers:
        coding, runs = codings.get(layer.name), target.executes.get(layer.kind, ())
        if isinstance(coding, Grid) and runs and coding.bits not in runs:
            found.setdefault((coding.bits, runs), []).append(layer.name)
    return [_said(target.name, bits, runs, names) for (bits, runs), names in sorted(found.items())]


def _said(target: str, bits: int, runs: tuple[int, ...], names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return (
        f"{target} runs weights at {' or '.join(map(str, runs))} bits; {bits} are stored, not executed: "
        f"{', '.join(names[:NAMED])}{more}. They take less in the file, no less time"
    )
