"""`Budget`: what the user demands; and the reading of "1%", "2MB", "5ms", "8x"."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from numbers import Real
from typing import Any

from lessen.errors import LessenError

_NUMBER = re.compile(r"\s*([+-]?(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?)\s*(.*?)\s*", re.IGNORECASE | re.DOTALL)
_DEFAULT_DROP = 1.0

_POINTS = {"": 1.0, "%": 1.0, "point": 1.0, "points": 1.0, "pt": 1.0, "pts": 1.0, "pp": 1.0}
_TIMES = {"": 1.0, "x": 1.0, "×": 1.0, "times": 1.0, ":1": 1.0}
_MILLISECONDS = {"": 1.0, "ns": 1e-6, "us": 1e-3, "µs": 1e-3, "μs": 1e-3, "ms": 1.0, "s": 1e3, "sec": 1e3}
_BYTES = {"": 1, "b": 1, "byte": 1, "bytes": 1} | {
    prefix + tail: base**power
    for power, prefix in enumerate("kmgt", 1)
    for tail, base in (("", 1000), ("b", 1000), ("ib", 1024), ("i", 1024))
}


@dataclass(frozen=True)
class _Demand:
    """How one field of a budget is written, read, compared and shown."""

    field: str
    option: str
    measured: str
    units: Mapping[str, float]
    forms: str
    least: float = 0.0
    below: float = math.inf
    floor: bool = False  # the measured value must be at least this, not at most

    def parse(self, given: Any) -> float:
        value = _number(given, self)
        if not (self.least <= value < self.below):
            bound = f"at least {self.least:g}" + (f" and below {self.below:g}" if self.below < math.inf else "")
            raise LessenError(f"{given!r} is impossible: it must be {bound}", where=self.option, mend=self.forms)
        return value

    def meets(self, value: float, asked: float) -> bool:
        slack = 1e-9 * abs(asked) + 1e-12  # 9 of 300 is 3 %, whatever the last bit says
        return value >= asked - slack if self.floor else value <= asked + slack  # False for NaN, as it must be


_DEMANDS = (
    _Demand("max_drop", "--max-drop", "drop", _POINTS, 'write "1%", "0.5" or "1 point" (percentage points)', below=100),
    _Demand("max_size", "--max-size", "file_bytes", _BYTES, 'write "2MB", "500 kB" or "1MiB"', least=1),
    _Demand("max_latency", "--max-latency", "latency_ms", _MILLISECONDS, 'write "5ms", "0.2 s" or "300us"', least=1e-9),
    _Demand("min_ratio", "--min-ratio", "ratio", _TIMES, 'write "8x" (times smaller; 1 or more)', least=1, floor=True),
    _Demand("max_memory", "--max-memory", "memory_bytes", _BYTES, 'write "200MB" or "64MiB"', least=1),
)


@dataclass(frozen=True)
class Budget:
    """What the compressed network must hold, each as measured on the file. A budget that asks nothing asks 1 point.

    Args:
        max_drop: most that may be lost, in the metric's points (1.0 = one percentage point of accuracy; for
            error metrics such as MSE one percent of the original's error, see `lessen.data.interval`).
        max_size: most bytes of the file.
        max_latency: most milliseconds for one run (median).
        min_ratio: least ratio of the original's bytes to the file's.
        max_memory: most bytes of memory at the peak of a run.

    Text is read too: `Budget.parse(max_drop="1%", max_size="2MB", max_latency="5ms", min_ratio="8x")`; bare numbers are
    points, bytes, milliseconds and times.

    Raises:
        LessenError: text that can't be read (the accepted forms are shown), or a value that can't be.
    """

    max_drop: float | None = None
    max_size: float | None = None
    max_latency: float | None = None
    min_ratio: float | None = None
    max_memory: float | None = None

    def __post_init__(self) -> None:
        for demand in _DEMANDS:
            given = getattr(self, demand.field)
            if given is not None:
                object.__setattr__(self, demand.field, demand.parse(given))
        if all(getattr(self, demand.field) is None for demand in _DEMANDS):
            object.__setattr__(self, "max_drop", _DEFAULT_DROP)

    @classmethod
    def nothing(cls) -> Budget:
        """A budget that demands nothing, for a plan that is merely carried out."""
        empty = object.__new__(cls)
        for demand in _DEMANDS:
            object.__setattr__(empty, demand.field, None)
        return empty

    @classmethod
    def parse(cls, **texts: str | float | None) -> Budget:
        """A budget from the command line's words: `Budget.parse(max_drop="1%", min_ratio="8x")`."""
        known = [f.name for f in fields(cls)]
        for name in texts:
            if name not in known:
                raise LessenError(f"a budget has no {name!r}", where="budget", mend="known: " + ", ".join(known))
        return cls(**texts)  # type: ignore[arg-type]

    @classmethod
    def of(cls, given: Budget | Mapping[str, Any] | str | float | None) -> Budget:
        """A budget from whatever a caller has: a `Budget`, a mapping of fields, "1%" (a drop), or None."""
        if isinstance(given, Budget):
            return given
        if isinstance(given, Mapping):
            return cls.parse(**given)
        return cls(max_drop=given)  # type: ignore[arg-type]

    def describe(self) -> str:
        """One line for people: "lose at most 1 point, at most 2 MB"."""
        asked = [(d, getattr(self, d.field)) for d in _DEMANDS]
        return ", ".join(_WORDS[d.field].format(_show(d.field, value)) for d, value in asked if value is not None)

    def unmet(self, measured: Mapping[str, float | None]) -> list[str]:
        """The demands that `measured` does not meet, each with what was asked and what was measured; [] if none.

        Args:
            measured: `drop` (points), `file_bytes`, `latency_ms`, `ratio` (original bytes / file bytes),
                `memory_bytes`; what was asked and is missing, None or NaN counts as not met.
        """
        return [
            f"{d.option} asked {_show(d.field, asked)}, measured {_show(d.field, measured.get(d.measured))}"
            for d in _DEMANDS
            if (asked := getattr(self, d.field)) is not None and not _met(d, measured.get(d.measured), asked)
        ]

    def account(self, measured: Mapping[str, float | None]) -> list[tuple[str, str, str, bool, str, float]]:
        """Every demand as (option, asked, measured, met, "", limit); `measured` as for `unmet`."""
        return [
            (d.option, _show(d.field, asked), _show(d.field, value), _met(d, value, asked), "", asked)
            for d in _DEMANDS
            if (asked := getattr(self, d.field)) is not None
            for value in (measured.get(d.measured),)
        ]


_WORDS = {
    "max_drop": "lose at most {}",
    "max_size": "file at most {}",
    "max_latency": "run in at most {}",
    "min_ratio": "at least {} smaller",
    "max_memory": "at most {} of memory",
}


def _met(demand: _Demand, value: float | None, asked: float) -> bool:
    return value is not None and demand.meets(value, asked)


def _number(given: Any, demand: _Demand) -> float:
    """The value in the demand's own unit; raises on anything that is not a finite number with a known unit."""
    if isinstance(given, str):
        match = _NUMBER.fullmatch(given)
        unit = match and demand.units.get(match[2].replace(" ", "").lower())
        value = float(match[1].replace("_", "")) * unit if match and unit else math.nan
    else:
        value = float(given) if isinstance(given, Real) and not isinstance(given, bool) else math.nan
    if not math.isfinite(value):
        raise LessenError(f"can't read {given!r}", where=demand.option, mend=demand.forms)
    return value


def _show(field: str, value: float | None) -> str:
    if value is None:
        return "nothing"
    if field == "max_drop":
        return f"{value:.4g} point" + ("" if value == 1 else "s")
    if field == "min_ratio":
        return f"{value:.4g}x"
    if field == "max_latency":
        return f"{value:.4g} ms"
    return show_bytes(value)


def show_bytes(count: float) -> str:
    """Bytes for people, decimal units, four digits: 2000000 -> "2 MB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if abs(count) < 1000 or not math.isfinite(count):
            return f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:.4g} TB"
