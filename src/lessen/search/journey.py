"""From a job to the plan that holds its budget: prepare, propose, solve, measure, and round again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..artifact import Exporter
from ..bench import Bench, Compressed
from ..errors import LessenError, did_you_mean
from ..folder import RunFolder
from ..job import Job
from ..models import fold_batchnorm, trace
from ..plan import Plan, Treatment
from ..propose import Prices, chosen_layers, propose, settings_of, worthwhile
from ..prune.channels import Channels
from ..recover import made, plain
from ..report import Point, Progress
from ..smoothing import smoothed_bench
from ..solve import Candidate, Price, Solution, curve
from ..statistics import collect
from ..train import FineTune
from ..verify import Judge
from . import widths
from .accuracy import Measured, best, search
from .pricing import prices_of

_RETREATS = (1.0, 0.5, 0.1)  # shares of the promised drop that a plan may use on the validation part
_LARGE = 2_000_000  # parameters: above, only settings that won on a sample of layers are tried on all
_HOPELESS = 30.0  # points: a plan that loses more than this untrained is not worth training


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


def prepared(job: Job, progress: Progress) -> Bench:
    """The network with its batch norms folded, traced, and its statistics."""
    with progress.stage("trace"):
        module, folded = fold_batchnorm(job.model.module, job.model.inputs)
        traced = trace(module, job.model.inputs)
        progress.note(
            f"{len(folded)} batch norms folded, {len(traced.layers)} layers, {100 * traced.share:.1f} % covered"
        )
    with progress.stage("statistics", total=job.data.calibration.n):
        statistics = collect(module, traced.layers, job.data.calibration.batches(), job.loss)
    return Bench(module, traced, statistics, folded)


def original_file(job: Job, exporter: Exporter, folder: RunFolder) -> Path:
    """The float model in the target's runtime: the user's own ONNX file, or the export of the torch network."""
    path = Path(job.model.origin)
    if path.suffix.lower() == ".onnx" and path.is_file():
        return path
    return exporter.write_original(folder.scratch("baseline.onnx"))


def journey(
    job: Job, folder: RunFolder, progress: Progress, *, where: tuple[str, ...], skip: tuple[str, ...], rounds: int
) -> Found:
    """Looks for the cheapest plan that holds the budget."""
    bench = prepared(job, progress)
    allowed = chosen_layers(bench.traced.layers, where, skip)
    with progress.stage("baseline"):
        exporter = Exporter(job.target, bench, job.model.inputs, job.data.calibration)
        judge = Judge(job, original_file(job, exporter, folder))
        judge.original(job.data.validation)
    with progress.stage("costs"):
        prices = prices_of(job, exporter)
    track = _Track(job, judge, folder, progress, prices, allowed, rounds, bench)
    track.explore(bench, exporter)
    for fraction in sorted(getattr(t, "fraction", 0.0) for t in settings_of(job.using) if isinstance(t, Channels)):
        wider = widths.shrunk(job, bench, Channels(fraction), progress)
        if wider is None or not track.explore(
            wider, Exporter(job.target, wider, job.model.inputs, job.data.calibration)
        ):
            break  # what loses too much at this width loses more at the next
    return track.settled()


@dataclass(eq=False)
class _Trial:
    bench: Bench
    exporter: Exporter
    measured: Measured


@dataclass(eq=False)
class _Track:
    """All plans that were measured on the way."""

    job: Job
    judge: Judge
    folder: RunFolder
    progress: Progress
    prices: Prices
    allowed: Mapping[str, str]
    rounds: int
    whole: Bench
    trials: list[_Trial] = field(default_factory=list)
    overhead: float = 0.0

    @property
    def limit(self) -> float:
        """Points that may be lost; without a demand, as many as it takes."""
        drop = self.job.budget.max_drop
        return float("inf") if drop is None else drop

    def explore(self, bench: Bench, exporter: Exporter) -> bool:
        """Searches the curve of one bench; True if a plan held the promised drop."""
        if bench.channels and not self._holds_in_float(bench, exporter):
            return False
        offered = tuple(t for t in settings_of(self.job.using) if not isinstance(t, Channels))
        with self.progress.stage("propose"):
            narrow = bool(self.job.target.executes) or self.job.model.parameters > _LARGE
            techniques = worthwhile(bench, offered, self.prices) if narrow else offered
        self.progress.note(f"{len(techniques)} of {len(offered)} settings can pay on {self.job.target.name}")
        with self.progress.stage("propose", total=len(bench.traced.layers)) as step:
            items = propose(bench, techniques, self.prices, dict(self.allowed), step)
        points = [p for p in curve(items, self.price(items)) if p.picks]
        with self.progress.stage("search", total=self.rounds) as step:

            def measure(i: int, s: Solution) -> Measured:
                step(1)
                return self._measure(bench, exporter, i, s)

            tried = search(points, measure, self.limit, self.rounds) if self.limit < float("inf") else \
                self._within(points, measure)  # fmt: skip
        self.trials += [_Trial(bench, exporter, m) for m in tried]
        return best(tried, self.limit) is not None

    def _holds_in_float(self, bench: Bench, exporter: Exporter) -> bool:
        """Whether a narrower network is good enough before anything else is done to it."""
        with self.progress.stage("search"):
            path = exporter.write_original(self.folder.scratch("narrow" + self.job.target.suffix))
            drop = self.judge.drop(path, self.job.data.validation)[1]
        self.progress.note(
            f"narrower by {sum(map(len, bench.channels.values()))} units: drop {drop.value:.3f} in float"
        )
        return drop.value <= self.limit

    def price(self, items: Mapping[str, Sequence[Candidate]]) -> Price:
        """Bytes and seconds weigh equally, each as a share of the untouched network's; what is not asked less."""
        whole = [c[0] for c in items.values()]
        nbytes, seconds = sum(c.nbytes for c in whole), sum(c.seconds for c in whole)
        asked = self.job.budget
        by_size = asked.max_latency is None or asked.max_size is not None or asked.min_ratio is not None
        by_time = seconds > 0 and (asked.max_latency is not None or asked.max_size is None)
        return Price(
            (1.0 if by_size else 0.1) / max(nbytes, 1), (1.0 if by_time else 0.1) / seconds if seconds else 0.0
        )

    def _measure(self, bench: Bench, exporter: Exporter, index: int, solution: Solution) -> Measured:
        """Carries a plan out and scores it on the validation part; if it loses too much, once more after training."""
        measured = self._scored(exporter, index, solution, made(self.job, bench, treatments_of(solution)), {})
        if measured.bound <= self.limit or self.job.train is None or measured.drop > _HOPELESS:
            return measured
        settings = FineTune()
        total = settings.epochs * -(-self.job.train.calibration.n // settings.batch_size)
        with self.progress.stage("recover", total=total) as step:
            trained = made(self.job, bench, treatments_of(solution), plain(settings), step)
        again = self._scored(exporter, index, solution, trained, plain(settings))
        return again if again.bound < measured.bound else measured

    def _scored(
        self, exporter: Exporter, index: int, solution: Solution, compressed: Compressed, recover: dict[str, Any]
    ) -> Measured:
        path = exporter.write(
            compressed, self.folder.scratch(f"trial{len(self.trials)}-{index}" + self.job.target.suffix)
        )
        score, drop = self.judge.drop(path, self.job.data.validation)
        nbytes = path.stat().st_size
        path.unlink()
        self.overhead = nbytes - solution.nbytes
        margin = max(min(0.5 * (drop.high - drop.value), 0.3 * self.limit), 0.0)
        self.progress.note(f"plan {index}: harm {solution.harm:.4g}, {nbytes} bytes, drop {drop.value:.3f}"
                           + (", fine-tuned" if recover else ""))  # fmt: skip
        return Measured(index, solution, drop.value, drop.value + margin, nbytes, (score, recover))

    def _within(self, points: Sequence[Solution], measure: object) -> list[Measured]:
        """No drop is promised: the least harm that fits the size (or time) asked for."""
        asked = self.job.budget
        base = self.judge.baseline.stat().st_size
        sizes = [s for s in (asked.max_size, base / asked.min_ratio if asked.min_ratio else None) if s is not None]
        tried: list[Measured] = []
        start = 0
        for _ in range(self.rounds):
            fits = (i for i in range(start, len(points)) if not sizes or points[i].nbytes + self.overhead <= min(sizes))
            index = next(fits, len(points) - 1)
            tried.append(measure(index, points[index]))  # type: ignore[operator]
            if not sizes or tried[-1].nbytes <= min(sizes) or index == len(points) - 1:
                break
            start = index + 1
        return tried

    def settled(self) -> Found:
        """The cheapest plan that holds on the validation part; if none does, the one nearest to it.

        Should it miss on the test part, a plan with more room is taken, at most twice: the report says how often the
        test part was looked at.
        """
        fitting = [t for t in self.trials if self._fits(t)]
        tried: list[_Trial] = []
        for share in _RETREATS:
            good = [t for t in fitting if t.measured.bound <= share * self.limit and t not in tried]
            if not good:
                break
            tried.append(min(good, key=self._cost))
            if self._test_drop(tried[-1]) <= self.limit:
                return self._found(tried[-1], "")
        if tried:
            return self._found(min(tried, key=self._test_drop), "met on the validation part, missed on the test part")
        nearest = min(
            self.trials, key=lambda t: (max(t.measured.drop - self.limit, 0.0), not self._fits(t), self._cost(t))
        )
        return self._found(nearest, self._reason())

    def _test_drop(self, trial: _Trial) -> float:
        if self.limit == float("inf"):
            return 0.0
        compressed = made(self.job, trial.bench, treatments_of(trial.measured.solution), trial.measured.extra[1])
        path = trial.exporter.write(compressed, self.folder.scratch("candidate" + self.job.target.suffix))
        return self.judge.drop(path, self.job.data.test)[1].value

    def _fits(self, trial: _Trial) -> bool:
        asked, base = self.job.budget, self.judge.baseline.stat().st_size
        small = asked.max_size is None or trial.measured.nbytes <= asked.max_size
        return small and (asked.min_ratio is None or trial.measured.nbytes * asked.min_ratio <= base)

    def _cost(self, trial: _Trial) -> float:
        base = self.judge.baseline.stat().st_size
        return trial.measured.nbytes / base + trial.measured.solution.cost

    def _reason(self) -> str:
        fits = [t for t in self.trials if self._fits(t)]
        near = min(self.trials, key=lambda t: t.measured.drop).measured
        if not fits:
            return f"the smallest plan that was measured takes {min(t.measured.nbytes for t in self.trials)} bytes"
        return (
            f"the safest of {len(self.trials)} measured plans still loses {near.drop:.2f} points on the validation part"
        )

    def _found(self, chosen: _Trial, reason: str) -> Found:
        treatments = treatments_of(chosen.measured.solution)
        recover = chosen.measured.extra[1]
        plan = plan_of(self.job, chosen.bench, treatments, recover)
        return Found(
            chosen.bench, chosen.exporter, self.judge, treatments, plan, self.allowed,
            tuple(self._point(t, t is chosen) for t in self.trials), chosen.measured.solution.picks, reason,
            macs_before=self.whole.traced.macs,
        )  # fmt: skip

    def _point(self, trial: _Trial, chosen: bool) -> Point:
        scale = self._scale()
        predicted = (trial.measured.solution.harm + trial.bench.harm) * scale
        score = trial.measured.extra[0]
        return Point(trial.measured.nbytes, predicted, score.value, trial.measured.drop / 100, chosen=chosen)

    def _scale(self) -> float:
        """Drop per unit of harm, fitted through the origin to all measured plans."""
        pairs = [(t.measured.solution.harm + t.bench.harm, t.measured.drop / 100) for t in self.trials]
        square = sum(h * h for h, _ in pairs)
        return max(sum(h * d for h, d in pairs) / square, 0.0) if square else 0.0


def treatments_of(solution: Solution) -> dict[str, Treatment]:
    return {name: candidate.choice for name, candidate in solution.picks.items()}


def plan_of(job: Job, bench: Bench, treatments: Mapping[str, Treatment], recover: Mapping[str, Any]) -> Plan:
    """The plan as it is written: layers that are kept are not in it."""
    worked = {name: t for name, t in treatments.items() if t.technique is not None}
    return Plan(job.target.name, worked, bench.channels, job.seed, job.model.sha256(), job.data.sha256(), recover,
                bench.smooth)  # fmt: skip


def replayed(job: Job, plan: Plan, folder: RunFolder, progress: Progress) -> Found:
    """The plan carried out on the job's model, without any choosing."""
    if plan.model and plan.model != job.model.sha256():
        raise LessenError(
            "the plan was made for another network",
            where=job.model.origin,
            mend="remove `model:` from the plan to apply it all the same",
        )
    bench = prepared(job, progress)
    with progress.stage("baseline"):
        exporter = Exporter(job.target, bench, job.model.inputs, job.data.calibration)
        judge = Judge(job, original_file(job, exporter, folder))
    macs = bench.traced.macs
    if plan.channels:
        bench = widths.removed(job, bench, plan.channels, progress)
        exporter = Exporter(job.target, bench, job.model.inputs, job.data.calibration)
    if plan.smooth is not None:
        variant = smoothed_bench(bench, exporter, plan.smooth)
        if variant is None:
            raise LessenError("there is nothing to smooth", where="plan, smooth", mend="remove `smooth:` from the plan")
        bench, exporter = variant
    for name in plan.layers:
        if name not in bench.layers:
            raise LessenError(f"the network has no layer {name!r}", where="plan", mend=did_you_mean(name, bench.layers))
    treatments = {name: plan.layers.get(name, Treatment()) for name in bench.layers}
    return Found(bench, exporter, judge, treatments, plan, macs_before=macs)
