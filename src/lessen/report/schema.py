"""What `report.json` holds. One frozen dataclass per object of the file; the field names are the JSON keys."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lessen.errors import LessenError
from lessen.report.plain import from_plain, to_plain, write_whole

_LARGEST_REPORT = 64 * 2**20  # bytes; a thousand layers need less than one MB


@dataclass(frozen=True)
class Metric:
    """A metric on the test part. `percent`: its value is a share of 1 and its drop is told in points."""

    name: str
    value: float
    n: int
    higher_is_better: bool = True
    percent: bool = True


@dataclass(frozen=True)
class Latency:
    """Milliseconds per run of `batch` samples, over the interleaved runs."""

    median: float
    p10: float
    p90: float
    batch: int = 1


@dataclass(frozen=True)
class Measured:
    """One artifact, as measured on its file in the target's runtime. None: not measured."""

    file_bytes: int
    parameters: int
    macs: int
    metric: Metric
    latency_ms: Latency | None = None
    peak_memory_bytes: int | None = None


@dataclass(frozen=True)
class Drop:
    """How much worse the result is, in units of the metric (positive: worse), with its paired interval."""

    value: float
    low: float
    high: float
    confidence: float = 0.95


@dataclass(frozen=True)
class Ratios:
    """Baseline divided by result: above 1 is better."""

    size: float
    packed_size: float | None = None
    latency: float | None = None
    memory: float | None = None
    macs: float | None = None


@dataclass(frozen=True)
class LayerRow:
    """What became of one weight. `sqnr_db` None: exact or not known. `harm`: predicted increase of the loss."""

    name: str
    kind: str
    technique: str
    done: bool
    why: str
    bytes_before: int
    bytes_after: int
    sqnr_db: float | None = None
    bits: float | None = None
    sparsity: float | None = None
    harm: float | None = None
    parameters: int | None = None
    macs: int | None = None


@dataclass(frozen=True)
class Demand:
    """One demand of the budget.

    `limit`: the number behind `asked`: bytes, ms, a ratio; of a drop: points, or percent of the original's error.
    """

    name: str
    asked: str
    measured: str
    met: bool
    why: str = ""
    limit: float | None = None


@dataclass(frozen=True)
class Verdict:
    """What the budget asked and whether the measured artifact holds it. `reason`: why not, if not."""

    asked: tuple[Demand, ...]
    met: bool
    unmet: tuple[str, ...] = ()
    reason: str = ""

    @classmethod
    def of(cls, demands: Iterable[Demand], reason: str = "") -> Verdict:
        """The verdict over `demands`: met if every one is."""
        demands = tuple(demands)
        unmet = tuple(demand.name for demand in demands if not demand.met)
        return cls(demands, not unmet, unmet, reason)


@dataclass(frozen=True)
class Point:
    """One plan on the size/accuracy curve. `who`: "joint", or the one technique that was used alone.

    Drops are on the validation part, in units of the metric, positive: worse.
    `metric` and `measured_drop` None: only predicted.
    """

    bytes: int
    predicted_drop: float
    metric: float | None = None
    measured_drop: float | None = None
    latency_ms: float | None = None
    chosen: bool = False
    who: str = "joint"


@dataclass(frozen=True)
class Left:
    """A part of the model that no technique could work on."""

    name: str
    why: str


@dataclass(frozen=True)
class Coverage:
    """How much of the model was traced: a share of the parameters (0 to 1), and what was left."""

    parameters_share: float = 1.0
    left: tuple[Left, ...] = ()


@dataclass(frozen=True)
class DataParts:
    """Samples in each part. Not `labelled`: the promise is on agreement with the original."""

    calibration: int
    validation: int
    test: int
    labelled: bool
    metric: str


@dataclass(frozen=True)
class Kernels:
    """Layers that the runtime executes in integer and in float arithmetic, read from the file it runs.

    `sparse`: those of them whose kernels pass over zeros.

    The field is called `float_` in Python only because `float` is the type.
    """

    integer: int
    float_: int
    sparse: int = 0


@dataclass(frozen=True)
class File:
    """A file of the run folder. `path` is relative to it."""

    name: str
    path: str
    file_bytes: int | None = None


@dataclass(frozen=True)
class Report:
    """What was done, what was skipped and why, and what was measured, before and after.

    `seconds`: per stage; a stage within another is named "outer/inner". `simulated`: the result was measured in
    float arithmetic that imitates the artifact, not on the artifact.
    """

    model: str
    target: str
    baseline: Measured
    result: Measured
    drop: Drop
    ratios: Ratios
    layers: tuple[LayerRow, ...]
    plan_sha256: str
    seed: int
    versions: dict[str, str]
    machine: dict[str, str | int | float]
    seconds: dict[str, float]
    budget: Verdict
    data: DataParts
    coverage: Coverage = Coverage()
    curve: tuple[Point, ...] = ()
    risks: tuple[str, ...] = ()
    files: tuple[File, ...] = ()
    kernels: Kernels | None = None
    simulated: bool = False
    command: str = ""
    notes: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values under the keys of `report.json`; NaN and Inf become None."""
        plain = to_plain(self)
        if self.kernels is not None:
            kernels = self.kernels
            plain["kernels"] = {"integer": kernels.integer, "float": kernels.float_, "sparse": kernels.sparse}
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Report:
        """The inverse of `to_dict`. Unknown keys are ignored, so that newer reports can be read.

        Raises:
            LessenError: a needed key is missing or has the wrong type.
        """
        kernels = plain.get("kernels") if isinstance(plain, dict) else None
        if isinstance(kernels, dict) and "float" in kernels:
            plain = {**plain, "kernels": {**kernels, "float_": kernels["float"]}}
        return from_plain(cls, plain)

    def write_json(self, path: str | os.PathLike[str]) -> None:
        """Write `report.json` whole or not at all."""
        write_whole(path, json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n")


def read_json(path: str | os.PathLike[str]) -> Report:
    """Read a `report.json`.

    Raises:
        LessenError: the file is missing, too large, not JSON or not a report.
    """
    mend = "give a report.json that lessen compress wrote"
    try:
        if Path(path).stat().st_size > _LARGEST_REPORT:
            raise LessenError("too large for a report", where=str(path), mend=mend)
        plain = json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, LessenError):
            raise
        raise LessenError(f"can't be read as JSON ({error})", where=str(path), mend=mend) from error
    try:
        return Report.from_dict(plain)
    except LessenError as error:
        raise LessenError(f"{error.where}: {error.what}", where=str(path), mend=error.mend or mend) from error
