"""What a target's costs are for the layers of one job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ..artifact import WAYS, Exporter
from ..codings import Coding
from ..job import Job
from ..models import Layer
from ..plan import Treatment
from ..propose import is_integer_grid, settings_of
from ..recover import coders
from ..targets import LayerCosts, Target
from ..targets.dynamic import can_be_live
from ..targets.locate import locate_all
from ..targets.recurrent import places
from ..verify import one_sample


@dataclass(frozen=True, eq=False)
class TargetPrices:
    """Bytes by the target's own rule, seconds from the table measured on this machine (0 where there is none)."""

    target: Target
    table: LayerCosts | None = None
    at_run_time: frozenset[str] = frozenset()  # layers that can read inputs rounded while the network runs
    integers: bool = True  # False where they turned out to be slower than float: weights are only stored smaller

    def nbytes(self, layer: Layer, coding: Coding) -> int:
        return self.target.nbytes(layer, coding)

    def seconds(self, layer: Layer, coding: Coding, integer: bool | str) -> float:
        return 0.0 if self.table is None else self.table.seconds(layer, coding, integer)

    def runs_integers(self, layer: Layer, coding: Coding) -> bool:
        return self.integers and layer.kind in self.target.executes and is_integer_grid(coding)

    def finds_ranges(self, layer: Layer, coding: Coding) -> bool:
        """Whether it runs integers with inputs that are rounded while the network runs."""
        return self.integers and layer.name in self.at_run_time and is_integer_grid(coding)

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
    asked = {WAYS[t.activations] for t in map(Treatment.of, settings_of(coders(job.using))) if t.at_run_time}
    table.prepare(exporter.graph, exporter.bench.traced.layers, one_sample(job.data.calibration), sorted(asked))
    return TargetPrices(job.target, table, _at_run_time(job.target, exporter))


def _at_run_time(target: Target, exporter: Exporter) -> frozenset[str]:
    """Plain products of an activation and a weight; LSTMs, where the runtime has a kernel for them."""
    layers, graph, rules = exporter.bench.traced.layers, exporter.graph, getattr(target, "rules", None)
    products = {n for n, s in locate_all(graph, layers).items() if can_be_live(s)}
    gates = [p for p in places(graph.graph, layers) if p.node.op_type == "LSTM" and p.node.graph is graph.graph]
    return frozenset(products | {p.layer.name for p in gates if rules is not None and rules.live})
