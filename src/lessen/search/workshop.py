"""`Workshop`: carries a plan out, writes its file and scores it on the validation part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..artifact import Exporter
from ..bench import Bench, Compressed
from ..folder import RunFolder
from ..in_turn import makes_up
from ..job import Job
from ..memory import give_back
from ..packed import write_artifact
from ..plan import Plan
from ..recover import made, plain, reconstruction_for, recovery_for
from ..report import Progress
from ..solve import Solution
from ..targets import compare
from ..verify import Judge, one_sample
from .accuracy import Measured
from .found import treatments_of

_DIGEST = "0" * 64  # stands for the model's in files that are only measured
_WITHIN_REACH = 3.0  # times the promised drop: coding in turn halves what is lost, more only at the coarsest
_HOPELESS = 30.0  # points: a plan that loses more than this untrained is not worth training


@dataclass(frozen=True)
class How:
    """How a plan is carried out: its layers coded each alone or in turn, then fine-tuned or not."""

    in_turn: bool = False
    recover: Mapping[str, Any] = field(default_factory=dict)

    @property
    def said(self) -> str:
        recover = f", {self.recover.get('technique', 'fine-tuned')}" if self.recover else ""
        return (", in turn" if self.in_turn else "") + recover


@dataclass(frozen=True)
class Scored:
    """What else was measured of a plan: its score, how it was carried out, its time if that was asked for."""

    score: float
    how: How
    milliseconds: float


@dataclass(eq=False)
class Workshop:
    """Where plans become files that are measured; what they take besides their layers is learned on the way."""

    job: Job
    judge: Judge
    folder: RunFolder
    progress: Progress
    overhead: float = 0.0
    _written: int = 0
    _baseline_ms: float = 0.0

    @property
    def limit(self) -> float:
        """Points that may be lost; without a demand, as many as it takes."""
        drop = self.job.budget.max_drop
        return float("inf") if drop is None else drop

    def measure(self, bench: Bench, exporter: Exporter, index: int, solution: Solution) -> Measured:
        """Carries a plan out and scores it on the validation part; if it loses too much, once more with its layers
        coded in turn, and after training.
        """
        measured = self._scored(exporter, index, solution, made(self.job, bench, treatments_of(solution)), How())
        if self.limit < measured.bound <= _WITHIN_REACH * self.limit:
            measured = self.rounded(bench, exporter, measured)
        if measured.bound <= self.limit or self.job.train is None or measured.drop > _HOPELESS:
            return measured
        settings = recovery_for(self.job, treatments_of(solution))
        with self.progress.stage("recover", total=settings.steps(self.job.train.calibration.n)) as step:
            how = How(measured.extra.how.in_turn, plain(settings))
            trained = made(self.job, bench, treatments_of(solution), how.recover, step, how.in_turn)
        again = self._scored(exporter, index, solution, trained, how)
        return again if again.bound < measured.bound else measured

    def rounded(self, bench: Bench, exporter: Exporter, alone: Measured) -> Measured:
        """The best of a plan as measured, with its layers coded in turn, and with rounding learned if that is asked."""
        measured, treatments = self._in_turn(bench, exporter, alone), treatments_of(alone.solution)
        method = reconstruction_for(self.job, bench, treatments)
        if method is None:
            return measured
        how = How(measured.extra.how.in_turn, plain(method))
        with self.progress.stage("rounding"):
            learned = made(self.job, bench, treatments, how.recover, in_turn=how.in_turn)
        return self._better(self._scored(exporter, alone.index, alone.solution, learned, how), measured)

    def candidate(self, bench: Bench, exporter: Exporter, measured: Measured) -> Path:
        """The file of a plan, written once more."""
        how, treatments = measured.extra.how, treatments_of(measured.solution)
        compressed = made(self.job, bench, treatments, how.recover, in_turn=how.in_turn)
        return exporter.write(compressed, self.folder.scratch("candidate" + self.job.target.suffix))

    def small_and_fast(self, measured: Measured) -> bool:
        """Whether the file as measured keeps the size and the time that are asked for."""
        limit = self.job.budget.max_latency
        return measured.nbytes <= self.largest() and (limit is None or measured.extra.milliseconds <= limit)

    def promises(self, point: Solution, whole: Solution) -> bool:
        """Whether a plan is predicted to fit, by its bytes and by its share of the whole network's time."""
        asked, share = self.job.budget, point.seconds / whole.seconds if whole.seconds else 1.0
        fast = asked.max_latency is None or self._original_ms() * share <= asked.max_latency
        return fast and point.nbytes + self.overhead <= self.largest()

    def largest(self) -> float:
        """Bytes that the file may have."""
        asked, base = self.job.budget, self.judge.baseline.stat().st_size
        return min(asked.max_size or float("inf"), base / asked.min_ratio if asked.min_ratio else float("inf"))

    def _in_turn(self, bench: Bench, exporter: Exporter, alone: Measured) -> Measured:
        """The better of a plan as measured and the same plan with its layers coded in turn."""
        solution = alone.solution
        if not makes_up(bench, treatments_of(solution)):
            return alone
        with self.progress.stage("in turn"):
            turned = made(self.job, bench, treatments_of(solution), in_turn=True)
        return self._better(self._scored(exporter, alone.index, solution, turned, How(in_turn=True)), alone)

    def _better(self, again: Measured, than: Measured) -> Measured:
        fits = self.small_and_fast(again) or not self.small_and_fast(than)
        return again if again.bound < than.bound and fits else than

    def _scored(self, exporter: Exporter, index: int, solution: Solution, compressed: Compressed, how: How) -> Measured:
        self._written += 1
        path = self.folder.scratch(f"trial{self._written}-{index}" + self.job.target.suffix)
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
        return Measured(index, solution, drop.value, bound, nbytes, Scored(score.value, how, clock))

    def _original_ms(self) -> float:
        if not self._baseline_ms:
            self._baseline_ms = self._milliseconds(self.judge.baseline)
        return self._baseline_ms

    def _milliseconds(self, path: Path) -> float:
        return compare([path], one_sample(self.job.data.validation), self.job.target, seconds=1.0)[0].median
