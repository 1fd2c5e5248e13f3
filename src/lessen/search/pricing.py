"""What a target's costs are for the layers of one job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ..artifact import Exporter
from ..codings import Coding
from ..job import Job
from ..models import Layer
from ..propose import is_integer_grid
from ..targets import LayerCosts, Target
from ..verify import one_sample


@dataclass(frozen=True, eq=False)
class TargetPrices:
    """Bytes by the target's own rule, seconds from the table measured on this machine (0 where there is none)."""

    target: Target
    table: LayerCosts | None = None
    integers: bool = True  # False where they turned out to be slower than float: weights are only stored smaller

    def nbytes(self, layer: Layer, coding: Coding) -> int:
        return self.target.nbytes(layer, coding)

    def seconds(self, layer: Layer, coding: Coding, integer: bool) -> float:
        return 0.0 if self.table is None else self.table.seconds(layer, coding, integer)

    def runs_integers(self, layer: Layer, coding: Coding) -> bool:
        return self.integers and layer.kind in self.target.executes and is_integer_grid(coding)

    def in_float(self) -> TargetPrices:
        """The same without integer arithmetic."""
        return replace(self, integers=False)

    def speed(self, path: Path, measure: Callable[[Path], float]) -> float:
        """How many times as fast as the original a file is; measured once on this machine."""
        return measure(path) if self.table is None else self.table.remembered(path.read_bytes(), lambda: measure(path))


def prices_of(job: Job, exporter: Exporter) -> TargetPrices:
    """Bytes and seconds of this job's layers on its target; the network is profiled if this machine has not seen it."""
    if not job.target.executes:  # nothing but bytes differs
        return TargetPrices(job.target)
    table = LayerCosts(job.target)
    table.prepare(exporter.graph, exporter.bench.traced.layers, one_sample(job.data.calibration))
    return TargetPrices(job.target, table)
