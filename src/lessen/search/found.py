"""What a search ends with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..artifact import Exporter
from ..bench import Bench
from ..job import Job
from ..plan import Plan, Treatment
from ..report import Point
from ..solve import Candidate, Solution
from ..verify import Judge


@dataclass(eq=False)
class Found:
    """The plan that was chosen, and all that the report tells of the way to it."""

    bench: Bench
    exporter: Exporter
    judge: Judge
    treatments: Mapping[str, Treatment]
    plan: Plan
    why: Mapping[str, str] = field(default_factory=dict)
    points: Sequence[Point] = ()
    predicted: Mapping[str, Candidate] = field(default_factory=dict)
    reason: str = ""
    risks: tuple[str, ...] = ()
    macs_before: int = 0

    @property
    def macs(self) -> tuple[int, int]:
        """Multiply-accumulates of the original and of the result, for one sample."""
        return (self.macs_before or self.bench.traced.macs, self.bench.traced.macs)


def treatments_of(solution: Solution) -> dict[str, Treatment]:
    return {name: candidate.choice for name, candidate in solution.picks.items()}


def plan_of(
    job: Job, bench: Bench, treatments: Mapping[str, Treatment], recover: Mapping[str, Any], in_turn: bool
) -> Plan:
    """The plan as it is written: layers that are kept are not in it."""
    worked = {name: t for name, t in treatments.items() if t.technique is not None}
    return Plan(job.target.name, worked, bench.channels, job.seed, job.model.sha256(), job.data.sha256(), recover,
                bench.smooth, bool(bench.channels) and job.train is not None, bench.trained, in_turn,
                bench.refold)  # fmt: skip
