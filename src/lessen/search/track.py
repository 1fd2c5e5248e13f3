"""`Track`: the plans that were carried out and measured, and the choice among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..artifact import Exporter
from ..bench import Bench, Compressed
from ..budget import show_bytes
from ..folder import RunFolder
from ..in_turn import makes_up
from ..job import Job
from ..memory import give_back
from ..packed import write_artifact
from ..plan import Plan
from ..propose import propose, settings_of, worthwhile
from ..recover import coders, made, plain, reconstruction_for, recovery_for
from ..report import Point, Progress
from ..solve import Candidate, Price, Solution, curve
from ..targets import compare
from ..targets.measure import on_one_core
from ..verify import Judge, one_sample
from .accuracy import Measure, Measured, best, search
from .execution import on_integers, timed
from .found import Found, plan_of, treatments_of
from .pricing import TargetPrices
from .variants import as_trained, zeros

_RETREATS = (1.0, 0.5, 0.1)  # shares of the promised drop that a plan may use on the validation part
_LARGE = 2_000_000  # parameters: above, only settings that won on a sample of layers are tried on all
_DIGEST = "0" * 64  # stands for the model's in files that are only measured
_TIE = 1e-3  # of the cost: among files as small and as fast, the one with the zeros that were asked for
_WITHIN_REACH = 3.0  # times the promised drop: coding in turn halves what is lost, more only at the coarsest
_HOPELESS = 30.0  # points: a plan that loses more than this untrained is not worth training


@dataclass(frozen=True)
class _How:
    """How a plan is carried out: its layers coded each alone or in turn, then fine-tuned or not."""

    in_turn: bool = False
    recover: Mapping[str, Any] = field(default_factory=dict)

    @property
    def said(self) -> str:
        recover = f", {self.recover.get('technique', 'fine-tuned')}" if self.recover else ""
        return (", in turn" if self.in_turn else "") + recover


@dataclass(frozen=True)
class _Scored:
    """What else was measured of a plan: its score, how it was carried out, its time if that was asked for."""

    score: float
    how: _How
    milliseconds: float


@dataclass(eq=False)
class _Trial:
    bench: Bench
    exporter: Exporter
    measured: Measured
    items: Mapping[str, Sequence[Candidate]] = field(default_factory=dict)


@dataclass(eq=False)
class Track:
    """All plans that were measured on the way."""

    job: Job
    judge: Judge
    folder: RunFolder
    progress: Progress
    prices: TargetPrices
    allowed: Mapping[str, str]
    rounds: int
    whole: Bench
    trials: list[_Trial] = field(default_factory=list)
    overhead: float = 0.0
    baseline_ms: float = 0.0
    last_was_cheapest: bool = False
    risks: list[str] = field(default_factory=list)
    unit: Price | None = None

    @property
    def cheapest_holds(self) -> bool:
        """Whether nothing cheaper than what already holds is on the last curve."""
        return bool(self.trials) and self.trials[-1].measured.bound <= self.limit and self.last_was_cheapest

    @property
    def limit(self) -> float:
        """Points that may be lost; without a demand, as many as it takes."""
        drop = self.job.budget.max_drop
        return float("inf") if drop is None else drop

    def explore(self, bench: Bench, exporter: Exporter) -> bool:
        """Searches the curve of one bench; True if a plan held the promised drop."""
        if (bench.channels or bench.trained) and not self._holds_in_float(bench, exporter):
            return False
        offered = settings_of(coders(self.job.using))
        with self.progress.stage("propose"):
            narrow = bool(self.job.target.executes) or self.job.model.parameters > _LARGE
            techniques = worthwhile(bench, offered, self.prices) if narrow else offered
        self.progress.note(f"{len(techniques)} of {len(offered)} settings can pay on {self.job.target.name}")
        with self.progress.stage("propose", total=len(bench.traced.layers)) as step:
            items = propose(bench, techniques, self.prices, dict(self.allowed), step)
        self.unit = self.unit or self.price(items)  # of the untouched network, explored first: costs compare
        items = as_trained(items, bench, self.prices) if bench.trained else items
        points = [p for p in curve(items, self.unit) if p.picks]
        if any(c.choice.activations for candidates in items.values() for c in candidates):
            with self.progress.stage("ranges"):
                exporter.calibrate()
        with self.progress.stage("search", total=self.rounds) as step:

            def measure(i: int, s: Solution) -> Measured:
                step(1)
                return self._measure(bench, exporter, i, s)

            tried = search(points, measure, self.limit, self.rounds) if self.limit < float("inf") else \
                self._within(points, measure)  # fmt: skip
        self.trials += [_Trial(bench, exporter, m, items) for m in tried]
        self.last_was_cheapest = tried[-1].index == len(points) - 1
        return best(tried, self.limit) is not None

    def everywhere(self) -> None:
        """The best plan once more with all its layers on integers; priced by the time of both files.

        Layers are priced one by one; what the ways between float and integer layers cost only the whole file shows.
        """
        chosen = self._best()
        mixed, unit = chosen.measured.solution, self.unit or Price()
        whole = on_integers(mixed, chosen.items, unit) if chosen.measured.bound <= self.limit else None
        if whole is None or not mixed.seconds:
            return
        measured = self._measure(chosen.bench, chosen.exporter, chosen.measured.index, whole)
        trial = _Trial(chosen.bench, chosen.exporter, measured, chosen.items)
        if measured.bound <= self.limit:
            faster = self._ratio(trial) / self._ratio(chosen)
            self.progress.note(f"all on integers: {faster:.2f} times as fast as the plan")
            trial.measured = replace(measured, solution=timed(whole, mixed.seconds / faster, unit))
            self.trials.append(trial)

    def integers_pay(self) -> bool:
        """Whether the best plan so far, run in the target's runtime, is at least as fast as the original.

        If not, its time as measured is what it costs from here on, and all that run integers cost as much more.
        """
        chosen = self._best()
        if not _on_integers(chosen):
            return True
        ratio = self._ratio(chosen)
        self.progress.note(f"integers: {ratio:.2f} times as fast as the original")
        seconds = chosen.measured.solution.seconds
        if ratio < 1.0 and seconds:
            slower = sum(c[0].seconds for c in chosen.items.values()) / ratio / seconds
            for trial in filter(_on_integers, self.trials):
                trial.measured = _repriced(trial.measured, slower, self.unit or Price())
        return ratio >= 1.0

    def floats_pay(self, bench: Bench, exporter: Exporter) -> bool:
        """Searches once more with layers that compute in float; whether the best plan of all is such a one."""
        integers, self.prices = self.prices, self.prices.in_float()
        self.explore(bench, exporter)
        if _on_integers(self._best()):
            self.prices = integers  # slower, and so much smaller that it is worth it
        return not self.prices.integers

    def _best(self) -> _Trial:
        good = [t for t in self.trials if t.measured.bound <= self.limit]
        return min(good or self.trials, key=self._cost)

    def _ratio(self, trial: _Trial) -> float:
        return self.prices.speed(self._candidate(trial), self._speed)

    def _speed(self, path: Path) -> float:
        one = one_sample(self.job.data.validation)
        return on_one_core([self.judge.baseline, path], one, self.job.target)[1].ratio

    def _holds_in_float(self, bench: Bench, exporter: Exporter) -> bool:
        """Whether a narrower or a trained network is good enough before anything else is done to it."""
        with self.progress.stage("search"):
            path = exporter.write_original(self.folder.scratch("narrow" + self.job.target.suffix))
            drop = self.judge.drop(path, self.job.data.validation)[1]
        narrower = f"narrower by {sum(map(len, bench.channels.values()))} units" if bench.channels else ""
        said = ", ".join(filter(None, (type(bench.trained).__name__ if bench.trained else "", narrower)))
        self.progress.note(f"{said}: drop {drop.value:.3f} in float")
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
        """Carries a plan out and scores it on the validation part; if it loses too much, once more with its layers
        coded in turn, and after training.
        """
        measured = self._scored(exporter, index, solution, made(self.job, bench, treatments_of(solution)), _How())
        if self.limit < measured.bound <= _WITHIN_REACH * self.limit:
            measured = self._rounded(bench, exporter, measured)
        if measured.bound <= self.limit or self.job.train is None or measured.drop > _HOPELESS:
            return measured
        settings = recovery_for(self.job, treatments_of(solution))
        total = settings.epochs * -(-self.job.train.calibration.n // settings.batch_size)
        with self.progress.stage("recover", total=total) as step:
            how = _How(measured.extra.how.in_turn, plain(settings))
            trained = made(self.job, bench, treatments_of(solution), how.recover, step, how.in_turn)
        again = self._scored(exporter, index, solution, trained, how)
        return again if again.bound < measured.bound else measured

    def _rounded(self, bench: Bench, exporter: Exporter, alone: Measured) -> Measured:
        """The best of a plan as measured, with its layers coded in turn, and with rounding learned if that is asked."""
        measured, treatments = self._in_turn(bench, exporter, alone), treatments_of(alone.solution)
        method = reconstruction_for(self.job, bench, treatments)
        if method is None:
            return measured
        how = _How(measured.extra.how.in_turn, plain(method))
        with self.progress.stage("rounding"):
            learned = made(self.job, bench, treatments, how.recover, in_turn=how.in_turn)
        return self._better(self._scored(exporter, alone.index, alone.solution, learned, how), measured)

    def _in_turn(self, bench: Bench, exporter: Exporter, alone: Measured) -> Measured:
        """The better of a plan as measured and the same plan with its layers coded in turn."""
        solution = alone.solution
        if not makes_up(bench, treatments_of(solution)):
            return alone
        with self.progress.stage("in turn"):
            turned = made(self.job, bench, treatments_of(solution), in_turn=True)
        return self._better(self._scored(exporter, alone.index, solution, turned, _How(in_turn=True)), alone)

    def _better(self, again: Measured, than: Measured) -> Measured:
        fits = self._small_and_fast(again) or not self._small_and_fast(than)
        return again if again.bound < than.bound and fits else than

    def _scored(
        self, exporter: Exporter, index: int, solution: Solution, compressed: Compressed, how: _How
    ) -> Measured:
        path = self.folder.scratch(f"trial{len(self.trials)}-{index}" + self.job.target.suffix)
        write_artifact(exporter, compressed, path, Plan(self.job.target.name, model=_DIGEST))
        score, drop = self.judge.drop(path, self.job.data.validation)
        nbytes = path.stat().st_size
        clock = self._milliseconds(path) if self.job.budget.max_latency is not None else 0.0
        path.unlink()
        give_back()
        self.overhead = nbytes - solution.nbytes
        margin = max(min(0.5 * (drop.high - drop.value), 0.3 * self.limit), 0.0)
        self.progress.note(f"plan {index}: harm {solution.harm:.4g}, {nbytes} bytes, drop {drop.value:.3f}"
                           + how.said)  # fmt: skip
        bound = round(drop.value + margin, 9)  # 0.7 + 0.3 is 1
        return Measured(index, solution, drop.value, bound, nbytes, _Scored(score.value, how, clock))

    def _within(self, points: Sequence[Solution], measure: Measure) -> list[Measured]:
        """No drop is promised: the least harm that fits the size and the time asked for."""
        tried: list[Measured] = []
        start = 0
        for _ in range(self.rounds):
            fits = (i for i in range(start, len(points)) if self._promises(points[i], points[0]))
            index = next(fits, len(points) - 1)
            tried.append(measure(index, points[index]))
            if self._small_and_fast(tried[-1]) or index == len(points) - 1:
                break
            start = index + max(1, (len(points) - index) // 8)
        return tried

    def _promises(self, point: Solution, whole: Solution) -> bool:
        """Whether a plan is predicted to fit, by its bytes and by its share of the whole network's time."""
        asked, share = self.job.budget, point.seconds / whole.seconds if whole.seconds else 1.0
        fast = asked.max_latency is None or self._baseline_ms() * share <= asked.max_latency
        return fast and point.nbytes + self.overhead <= self._largest()

    def _largest(self) -> float:
        """Bytes that the file may have."""
        asked, base = self.job.budget, self.judge.baseline.stat().st_size
        return min(asked.max_size or float("inf"), base / asked.min_ratio if asked.min_ratio else float("inf"))

    def _baseline_ms(self) -> float:
        if not self.baseline_ms:
            self.baseline_ms = self._milliseconds(self.judge.baseline)
        return self.baseline_ms

    def _milliseconds(self, path: Path) -> float:
        return compare([path], one_sample(self.job.data.validation), self.job.target, seconds=1.0)[0].median

    def _small_and_fast(self, measured: Measured) -> bool:
        limit = self.job.budget.max_latency
        return measured.nbytes <= self._largest() and (limit is None or measured.extra.milliseconds <= limit)

    def settled(self) -> Found:
        """The cheapest plan that holds on the validation part; if none does, the one nearest to it.

        Should it miss on the test part, a plan with more room is taken, at most twice: the report says how often the
        test part was looked at.
        """
        fitting = [t for t in self.trials if self._fits(t)]
        tried: list[_Trial] = []
        left: list[_Trial] = []
        for share in _RETREATS:
            good = [t for t in fitting if t.measured.bound <= share * self.limit and t not in left]
            if not good:
                break
            left.append(min(good, key=self._cost))
            tried.append(self._polished(left[-1]))
            if self._test_drop(tried[-1]) <= self.limit:
                return self._found(tried[-1], "")
        if tried:
            return self._found(min(tried, key=self._test_drop), "met on the validation part, missed on the test part")
        nearest = min(
            self.trials, key=lambda t: (max(t.measured.drop - self.limit, 0.0), not self._fits(t), self._cost(t))
        )
        return self._found(nearest, self._reason())

    def _polished(self, trial: _Trial) -> _Trial:
        """The plan with its layers coded in turn, where that is better on the validation part."""
        if trial.measured.extra.how != _How():
            return trial  # it was tried when the plan lost too much
        better = self._rounded(trial.bench, trial.exporter, trial.measured)
        if better is trial.measured:
            return trial
        self.trials.append(replace(trial, measured=better))
        return self.trials[-1]

    def _test_drop(self, trial: _Trial) -> float:
        if self.limit == float("inf"):
            return 0.0
        return self.judge.drop(self._candidate(trial), self.job.data.test)[1].value

    def _candidate(self, trial: _Trial) -> Path:
        """The file of a plan, written once more."""
        how, treatments = trial.measured.extra.how, treatments_of(trial.measured.solution)
        compressed = made(self.job, trial.bench, treatments, how.recover, in_turn=how.in_turn)
        return trial.exporter.write(compressed, self.folder.scratch("candidate" + self.job.target.suffix))

    def _fits(self, trial: _Trial) -> bool:
        return self._small_and_fast(trial.measured)

    def _cost(self, trial: _Trial) -> float:
        base = self.judge.baseline.stat().st_size
        sparser = _TIE * zeros(trial.bench) if trial.bench.trained else 0.0  # the packed file is smaller for it
        return trial.measured.nbytes / base + trial.measured.solution.cost - sparser

    def _reason(self) -> str:
        fits = [t for t in self.trials if self._fits(t)]
        near = min(self.trials, key=lambda t: t.measured.drop).measured
        if not fits:
            small = min(t.measured.nbytes for t in self.trials)
            if small > self._largest():
                return f"the smallest of {len(self.trials)} measured plans takes {show_bytes(small)}"
            fast = min(t.measured.extra.milliseconds for t in self.trials)
            return f"the fastest of {len(self.trials)} measured plans takes {fast:.3g} ms"
        return (
            f"the safest of {len(self.trials)} measured plans still loses {near.drop:.2f} points on the validation part"
        )

    def _found(self, chosen: _Trial, reason: str) -> Found:
        treatments = treatments_of(chosen.measured.solution)
        how = chosen.measured.extra.how
        plan = plan_of(self.job, chosen.bench, treatments, how.recover, how.in_turn)
        return Found(
            chosen.bench, chosen.exporter, self.judge, treatments, plan, self.allowed,
            tuple(self._point(t, t is chosen) for t in self.trials), chosen.measured.solution.picks, reason,
            risks=tuple(self.risks), macs_before=self.whole.traced.macs,
        )  # fmt: skip

    def _point(self, trial: _Trial, chosen: bool) -> Point:
        scale = self._scale()
        predicted = (trial.measured.solution.harm + trial.bench.harm) * scale
        return Point(
            trial.measured.nbytes, predicted, trial.measured.extra.score, trial.measured.drop / 100, chosen=chosen
        )

    def _scale(self) -> float:
        """Drop per unit of harm, fitted through the origin to all measured plans."""
        pairs = [(t.measured.solution.harm + t.bench.harm, t.measured.drop / 100) for t in self.trials]
        square = sum(h * h for h, _ in pairs)
        return max(sum(h * d for h, d in pairs) / square, 0.0) if square else 0.0


def _on_integers(trial: _Trial) -> bool:
    return any(t.activations for t in treatments_of(trial.measured.solution).values())


def _repriced(measured: Measured, slower: float, unit: Price) -> Measured:
    return replace(measured, solution=timed(measured.solution, measured.solution.seconds * slower, unit))
