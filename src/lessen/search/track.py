"""`Track`: the plans that were looked for along the curves, and what was measured of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..artifact import Exporter
from ..bench import Bench
from ..job import Job
from ..propose import propose, settings_of, worthwhile
from ..recover import coders
from ..report import Progress
from ..solve import Candidate, Price, Solution, curve
from ..targets.measure import on_one_core
from ..verify import Judge, one_sample
from .accuracy import Measure, Measured, best, search
from .execution import on_integers, timed
from .found import treatments_of
from .pricing import TargetPrices
from .sensitivity import as_measured
from .variants import as_trained, zeros
from .workshop import Workshop

Items = Mapping[str, Sequence[Candidate]]
_LARGE = 2_000_000  # parameters: above, only settings that won on a sample of layers are tried on all
_TIE = 1e-3  # of the cost: among files as small and as fast, the one with the zeros that were asked for


@dataclass(eq=False)
class Trial:
    """One plan that was measured, on what bench, and the candidates that it was chosen from."""

    bench: Bench
    exporter: Exporter
    measured: Measured
    items: Items = field(default_factory=dict)


@dataclass(eq=False)
class Track:
    """All plans that were measured on the way."""

    workshop: Workshop
    prices: TargetPrices
    allowed: Mapping[str, str]
    rounds: int
    whole: Bench
    trials: list[Trial] = field(default_factory=list)
    last_was_cheapest: bool = False
    risks: list[str] = field(default_factory=list)
    unit: Price | None = None

    @property
    def job(self) -> Job:
        return self.workshop.job

    @property
    def judge(self) -> Judge:
        return self.workshop.judge

    @property
    def progress(self) -> Progress:
        return self.workshop.progress

    @property
    def limit(self) -> float:
        """Points that may be lost."""
        return self.workshop.limit

    @property
    def cheapest_holds(self) -> bool:
        """Whether nothing cheaper than what already holds is on the last curve."""
        return bool(self.trials) and self.trials[-1].measured.bound <= self.limit and self.last_was_cheapest

    def explore(self, bench: Bench, exporter: Exporter) -> bool:
        """Searches the curve of one bench; True if a plan held the promised drop."""
        if (bench.channels or bench.trained) and not self._holds_in_float(bench, exporter):
            return False
        items = self._proposed(bench)
        ways = {c.choice.activations for candidates in items.values() for c in candidates}
        if not ways <= {None, "dynamic", "token"}:
            with self.progress.stage("ranges"):
                exporter.calibrate()
        with self.progress.stage("search", total=self.rounds) as step:

            def measure(i: int, s: Solution) -> Measured:
                step(1)
                return self.workshop.measure(bench, exporter, i, s)

            items, points, tried = self._searched(exporter, items, measure)
        self.trials += [Trial(bench, exporter, m, items) for m in tried]
        self.last_was_cheapest = tried[-1].index == len(points) - 1
        return best(tried, self.limit) is not None

    def _searched(
        self, exporter: Exporter, items: Items, measure: Measure
    ) -> tuple[Items, list[Solution], list[Measured]]:
        """(candidates, their curve, what was measured on it).

        Where the cheapest plan loses too much, what rounding each layer's activations does is measured first: the
        prediction knows a range and its step, not what a network makes of the error.
        """
        points = self._points(items)
        if self.limit == float("inf"):
            return items, points, self._within(points, measure)
        cheapest = measure(len(points) - 1, points[-1])
        if cheapest.bound <= self.limit:
            return items, points, [cheapest]
        items = as_measured(self.job, exporter, items, self.progress)
        points = self._points(items)

        def again(i: int, s: Solution) -> Measured:
            known = treatments_of(s) == treatments_of(cheapest.solution)
            return replace(cheapest, index=i, solution=s) if known else measure(i, s)

        return items, points, search(points, again, self.limit, self.rounds)

    def explore_safer(self, than: Trial, share: float) -> None:
        """Measures the cheapest plan on a plan's curve that does at most so much of its harm, if that was not done."""
        most = share * than.measured.solution.harm
        points = self._points(than.items) if than.items else []
        index = max((i for i, p in enumerate(points) if p.harm <= most), default=None)
        if index is None or any(t.bench is than.bench and _same(t, points[index]) for t in self.trials):
            return
        measured = self.workshop.measure(than.bench, than.exporter, index, points[index])
        self.trials.append(Trial(than.bench, than.exporter, measured, than.items))

    def everywhere(self) -> None:
        """The best plan once more with all its layers on integers; priced by the time of both files.

        Layers are priced one by one; what the ways between float and integer layers cost only the whole file shows.
        """
        chosen = self._best()
        mixed, unit = chosen.measured.solution, self.unit or Price()
        whole = on_integers(mixed, chosen.items, unit) if chosen.measured.bound <= self.limit else None
        if whole is None or not mixed.seconds:
            return
        measured = self.workshop.measure(chosen.bench, chosen.exporter, chosen.measured.index, whole)
        trial = Trial(chosen.bench, chosen.exporter, measured, chosen.items)
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

    def _best(self) -> Trial:
        good = [t for t in self.trials if t.measured.bound <= self.limit]
        return min(good or self.trials, key=self.cost)

    def _ratio(self, trial: Trial) -> float:
        return self.prices.speed(self.file(trial), self._speed)

    def _speed(self, path: Path) -> float:
        one = one_sample(self.job.data.validation)
        return on_one_core([self.judge.baseline, path], one, self.job.target)[1].ratio

    def _holds_in_float(self, bench: Bench, exporter: Exporter) -> bool:
        """Whether a narrower or a trained network is good enough before anything else is done to it."""
        with self.progress.stage("search"):
            path = exporter.write_original(self.workshop.folder.scratch("narrow" + self.job.target.suffix))
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

    def cost(self, trial: Trial) -> float:
        """Bytes and seconds as measured, each as a share of the original's."""
        base = self.judge.baseline.stat().st_size
        sparser = _TIE * zeros(trial.bench) if trial.bench.trained else 0.0  # the packed file is smaller for it
        return trial.measured.nbytes / base + trial.measured.solution.cost - sparser

    def file(self, trial: Trial) -> Path:
        """The file of a plan, written once more."""
        return self.workshop.candidate(trial.bench, trial.exporter, trial.measured)

    def _proposed(self, bench: Bench) -> Items:
        """The priced candidates of every layer of a bench."""
        offered = settings_of(coders(self.job.using))
        with self.progress.stage("propose"):
            narrow = bool(self.job.target.executes) or self.job.model.parameters > _LARGE
            techniques = worthwhile(bench, offered, self.prices) if narrow else offered
        self.progress.note(f"{len(techniques)} of {len(offered)} settings can pay on {self.job.target.name}")
        with self.progress.stage("propose", total=len(bench.traced.layers)) as step:
            items = propose(bench, techniques, self.prices, dict(self.allowed), step)
        self.unit = self.unit or self.price(items)  # of the untouched network, explored first: costs compare
        return as_trained(items, bench, self.prices) if bench.trained else items

    def _points(self, items: Items) -> list[Solution]:
        return [p for p in curve(items, self.unit or Price()) if p.picks]

    def _within(self, points: Sequence[Solution], measure: Measure) -> list[Measured]:
        """No drop is promised: the least harm that fits the size and the time asked for."""
        tried: list[Measured] = []
        start = 0
        for _ in range(self.rounds):
            fits = (i for i in range(start, len(points)) if self.workshop.promises(points[i], points[0]))
            index = next(fits, len(points) - 1)
            tried.append(measure(index, points[index]))
            if self.workshop.small_and_fast(tried[-1]) or index == len(points) - 1:
                break
            start = index + max(1, (len(points) - index) // 8)
        return tried


def _same(trial: Trial, solution: Solution) -> bool:
    return treatments_of(trial.measured.solution) == treatments_of(solution)


def _on_integers(trial: Trial) -> bool:
    return any(t.activations for t in treatments_of(trial.measured.solution).values())


def _repriced(measured: Measured, slower: float, unit: Price) -> Measured:
    return replace(measured, solution=timed(measured.solution, measured.solution.seconds * slower, unit))
