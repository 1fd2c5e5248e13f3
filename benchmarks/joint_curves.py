"""Tracing size/accuracy curves as measured files, with the library's own parts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lessen.artifact import Exporter
from lessen.bench import Bench
from lessen.data import Score, paired_drop
from lessen.job import Job
from lessen.plan import Treatment
from lessen.propose import propose, settings_of
from lessen.prune import Channels
from lessen.recover import made
from lessen.report import Progress
from lessen.search import widths
from lessen.search.found import treatments_of
from lessen.search.prepare import prepared
from lessen.search.pricing import TargetPrices
from lessen.solve import Price, Solution, cheapest_within, curve
from lessen.verify import Judge

WORST = 2.0  # nats of predicted harm: beyond this no network is of use
HOPELESS = 4.0  # points: a width that loses more in float is not worked on
BYTES = Price(1.0, 0.0)
Items = Mapping[str, Sequence[Any]]


@dataclass(frozen=True, eq=False)
class Point:
    """A file that was written and scored on the test part."""

    nbytes: int
    score: Score
    plan: str

    @property
    def value(self) -> float:
        return self.score.value


@dataclass(eq=False)
class Tracer:
    """One task: the network laid out for work, its widths, and the files made of them.

    Args:
        job: model, data, metric and target.
        folder: for files; each is deleted when it is measured.
        fractions: widths to work with, as shares of the units that `Channels` removes.
    """

    job: Job
    folder: Path
    fractions: tuple[float, ...] = ()
    progress: Progress = field(default_factory=lambda: Progress(quiet=True))
    files: int = 0

    def __post_init__(self) -> None:
        whole = prepared(self.job, self.progress)
        self.benches: list[tuple[Bench, Exporter, str]] = [(whole, self._exporter(whole), "")]
        baseline = self.benches[0][1].write_original(self.folder / "baseline.onnx")
        self.judge = Judge(self.job, baseline)
        self.original = Point(baseline.stat().st_size, self.judge.original(self.job.data.test), "float32")
        for fraction in self.fractions:
            bench = widths.shrunk(self.job, whole, Channels(fraction), self.progress)
            if bench is not None:
                self.benches.append((bench, self._exporter(bench), f"Channels({fraction}) "))

    def _exporter(self, bench: Bench) -> Exporter:
        return Exporter(self.job.target, bench, self.job.model.inputs, self.job.data.calibration)

    def channels(self) -> list[Point]:
        """Narrower networks in float; widths that lose too much are dropped."""
        points = []
        for place in self.benches[1:]:
            points.append(self._measured(place, {}, place[2].strip()))
            if self.lost(points[-1]) > HOPELESS:
                self.benches.remove(place)
        return points

    def lost(self, point: Point) -> float:
        """Points below the original."""
        return 100 * (self.original.value - point.value)

    def single(self, technique: type, count: int, flat: bool = True) -> list[Point]:
        """One technique alone: along the solver's curve, and (`flat`) with one setting for all layers."""
        place = self.benches[0]
        items = self.items(place[0], settings_of((technique,)))
        traced = list(self._along(place, items, count))
        settings = settings_of((technique,)) if flat else ()
        return traced + [p for s in settings if (p := self._flat(place, items, s))]

    def joint(self, using: Sequence[type], count: int) -> list[Point]:
        """All techniques together, on the whole network and on each width."""
        self.joint_items = [self.items(bench, settings_of(using)) for bench, _, _ in self.benches]
        few = max(count // 2, 3)
        return [
            p
            for n, (place, items) in enumerate(zip(self.benches, self.joint_items, strict=True))
            for p in self._along(place, items, few if n else count)
        ]

    def within(self, nbytes: int) -> Point | None:
        """The joint plan of least predicted harm whose file has at most so many bytes."""
        limit = float(nbytes)
        for _ in range(4):
            best = self._least(limit)
            if best is None:
                return None
            place, solution = best
            point = self._measured(place, treatments_of(solution), f"{place[2]}within {nbytes} bytes")
            if point.nbytes <= nbytes:
                return point
            limit -= max(point.nbytes - nbytes, 1) + max(limit - solution.nbytes, 0)
        return None

    def _least(self, limit: float) -> tuple[tuple[Bench, Exporter, str], Solution] | None:
        found = [
            (place, solution)
            for place, items in zip(self.benches, self.joint_items, strict=True)
            if (solution := cheapest_within(items, BYTES, limit)) is not None
        ]
        return min(found, key=lambda f: f[1].harm + f[0][0].harm, default=None)

    def items(self, bench: Bench, techniques: Sequence[Any]) -> Items:
        """Priced candidates of every layer; codings are kept by the bench, so that nothing is made twice."""
        prices = TargetPrices(self.job.target)
        names = dict.fromkeys(bench.layers, "")
        items = propose(bench, tuple(techniques), prices, names)
        integers = bool(self.job.target.executes)
        return {n: [c for c in cs if not integers or _runs(c.choice, cs)] for n, cs in items.items()}

    def _along(self, place: tuple[Bench, Exporter, str], items: Items, count: int) -> Iterator[Point]:
        for solution in spread(curve(items, BYTES), count):
            yield self._measured(place, treatments_of(solution), f"{place[2]}harm {solution.harm:.3g}")

    def _flat(self, place: tuple[Bench, Exporter, str], items: Items, setting: Any) -> Point | None:
        picks = {n: [c.choice for c in cs if c.choice.technique == setting] for n, cs in items.items()}
        if not any(picks.values()):
            return None
        return self._measured(place, {n: p[-1] if p else Treatment() for n, p in picks.items()}, f"all {setting}")

    def _measured(
        self, place: tuple[Bench, Exporter, str], treatments: Mapping[str, Treatment], plan: str
    ) -> Point:  # fmt: skip
        bench, exporter, _ = place
        path = self.folder / f"{self.files}{self.job.target.suffix}"
        self.files += 1
        every = {name: treatments.get(name, Treatment()) for name in bench.layers}
        exporter.write(made(self.job, bench, every), path)
        score, _ = self.judge.drop(path, self.job.data.test)
        point = Point(path.stat().st_size, score, plan)
        path.unlink()
        return point


def _runs(choice: Treatment, candidates: Sequence[Any]) -> bool:
    """With integers where the target has them: of both ways to run a grid, the fast one."""
    quick = {c.choice.technique for c in candidates if c.choice.activations}
    return bool(choice.activations) or choice.technique not in quick


def spread(solutions: Sequence[Solution], count: int) -> list[Solution]:
    """So many solutions, evenly by the logarithm of their harm, from the least to `WORST`."""
    harms = [s.harm for s in solutions if s.harm > 0]
    if not harms:
        return list(solutions[:1])
    low, high = math.log(min(harms)), math.log(max(min(max(harms), WORST), min(harms)))
    chosen = {}
    for n in range(count):
        limit = math.exp(low + (high - low) * n / max(count - 1, 1)) * (1 + 1e-9)
        best = max(i for i, s in enumerate(solutions) if s.harm <= limit)
        chosen[best] = solutions[best]
    return list(chosen.values())


def undominated(points: Sequence[Point], joint: Sequence[Point]) -> list[Point]:
    """Points that no joint point answers with as few bytes and as high a score."""
    return [p for p in points if not any(j.nbytes <= p.nbytes and j.value >= p.value for j in joint)]


def beyond_noise(points: Sequence[Point], joint: Sequence[Point]) -> list[Point]:
    """Of the undominated, those that are better than the best joint point of their size by more than chance.

    Paired on the test samples, 95 %. A size that no joint point has is better beyond all noise.
    """
    return [p for p in undominated(points, joint) if not _answered(p, joint)]


def _answered(point: Point, joint: Sequence[Point]) -> bool:
    small = [j for j in joint if j.nbytes <= point.nbytes]
    return bool(small) and paired_drop(point.score, max(small, key=lambda j: j.value).score).low <= 0


def lead(point: Point, joint: Sequence[Point]) -> float:
    """How far a point is above the best joint point of its size; its whole score where there is none."""
    return point.value - max((j.value for j in joint if j.nbytes <= point.nbytes), default=0.0)


def smallest(points: Sequence[Point], original: Point, drop: float) -> Point | None:
    """The smallest file that loses at most `drop` points on the test part."""
    good = [p for p in points if 100 * (original.value - p.value) <= drop]
    return min(good, key=lambda p: p.nbytes, default=None)


__all__ = ["Point", "Tracer", "beyond_noise", "lead", "smallest", "spread", "undominated"]
