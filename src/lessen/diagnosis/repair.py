"""`fix`: mends one after the other, the cheapest first, until the file holds the promise as measured on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..budget import Budget
from ..data.interval import Drop
from ..data.metrics import Score
from ..errors import LessenError
from ..report import Progress
from ..targets.graph import serialized
from ..targets.onnx_file import write_whole
from ..verify import Judge
from .blame import Switchboard
from .diagnosis import SAMPLES, SWITCHED, Diagnosis, inputs_of, judge_of, output_db, some
from .measure import measured
from .mends import EightBits, InFloat, Mend
from .propose import dear, mends_of, together
from .reasons import findings
from .state import State
from .units import Unit

QUIET = 45.0  # decibels from which a layer's own noise is left alone
GAIN = 0.5  # decibels at the outputs that a mend must bring to stay
LAST = 0.5  # most units, as a share of all, that are put back to float in one step


@dataclass(frozen=True, eq=False)
class Step:
    """One mend and what it did, as measured on the validation part.

    Args:
        mend: the mend.
        before, after: the drop in the metric's points.
        db: signal to noise at the outputs afterwards.
        file_bytes: of the file with it.
        kept: whether it stayed.
    """

    mend: Mend
    before: float
    after: float
    db: float
    file_bytes: int
    kept: bool


@dataclass(frozen=True, eq=False)
class Fixed:
    """The outcome of a repair.

    Args:
        state: the mended file.
        path: where it was written.
        steps: every mend that was tried.
        max_drop: what was promised.
        score, drop: on the test part, measured on the file.
        before: the drop of the file as it was given, on the test part.
        held: whether the promise holds there.
    """

    state: State
    path: Path
    steps: tuple[Step, ...]
    max_drop: float
    score: Score
    drop: Drop
    before: Drop
    held: bool


def fix(diagnosis: Diagnosis, path: str | Path, max_drop: Any = None, progress: Progress | None = None) -> Fixed:
    """Mends the compressed file until it loses at most `max_drop`, and writes it.

    What costs nothing comes first and for all layers that need it (bias, a step per channel, ranges), then what costs
    little (equalization, smoothing), then float for the layers that pay most, a few at a time. Each mend is measured
    on the validation part and stays only if it helps; the promise is checked on the test part.

    Args:
        diagnosis: of `diagnose`.
        path: the .onnx file to write.
        max_drop: most that may be lost, "1%" or points; 1 point unless given.
    """
    promise = Budget.of(max_drop).max_drop
    if promise is None:
        raise LessenError("fix needs a largest drop", where="max_drop", mend='write "1%" or "0.5"')
    work = _Work(diagnosis, Path(path), promise, progress or Progress(quiet=True))
    return work.run()


class _Work:
    """The repair as it goes: the best state so far and its figures."""

    def __init__(self, diagnosis: Diagnosis, path: Path, promise: float, progress: Progress) -> None:
        self.diagnosis, self.path, self.promise, self.progress = diagnosis, path, promise, progress
        self.judge: Judge = judge_of(diagnosis.pair)
        self.data = diagnosis.pair.job.data
        self.few = inputs_of(some(self.data.calibration, SAMPLES))
        self.state, self.steps = diagnosis.state, list[Step]()
        self.drop, self.db = diagnosis.drop.value, diagnosis.whole_db
        self.aim = promise  # on the validation part; stricter once the test part disagreed
        self._write(self.state)

    def run(self) -> Fixed:
        before = self.judge.drop(self.diagnosis.pair.runnable, self.data.test)[1]
        with self.progress.stage("fix"):
            for mend in self._mends():
                if self.drop <= self.aim and self._settled():
                    break
                self._try(mend)
        self._write(self.state)
        score, drop = self.judge.drop(self.path, self.data.test)
        held = drop.value <= self.promise + 1e-9
        return Fixed(self.state, self.path, tuple(self.steps), self.promise, score, drop, before, held)

    def _settled(self) -> bool:
        """Whether the test part agrees; if not, more is asked of the validation part (twice at most)."""
        self._write(self.state)
        if self.judge.drop(self.path, self.data.test)[1].value <= self.promise + 1e-9 or self.aim < self.promise / 3:
            return True
        self.aim /= 2
        return self.drop <= self.aim

    def _mends(self) -> Iterator[Mend]:
        yield from self._cheap()
        if any(s.kept for s in self.steps):
            yield from self._cheap()
        yield from self._dear()

    def _cheap(self) -> Iterator[Mend]:
        tried = [s.mend for s in self.steps]
        noise = measured(self.state.graph, self.state.units, self.state.exact, self.few)
        found: list[Mend] = []
        for unit in self.state.units:
            if noise[unit.name].alone_db < QUIET:
                reasons = findings(unit, noise[unit.name], self.state)
                found += mends_of(unit, noise[unit.name], reasons, self.state)
        yield from (m for m in together(found) if m not in tried)

    def _dear(self) -> Iterator[Mend]:
        """The units that pay most, by the file as it is by then: one; where that does not help, twice as many."""
        count, order = 1, self._by_pay()
        while order and count <= max(1, LAST * len(self.state.units)):
            few = tuple(u.name for u in order[:count] if type(dear(u)) is EightBits)
            yield EightBits(few) if few else InFloat(tuple(u.name for u in order[:count]))
            if self.steps and self.steps[-1].kept:
                count, order = max(1, count // 2), self._by_pay()
            else:
                count *= 2

    def _by_pay(self) -> list[Unit]:
        batches = inputs_of(some(self.data.calibration, SWITCHED))
        board = Switchboard(self.state.graph, self.state.units, self.state.exact, batches)
        left = [u for u in self.state.units if _rounded(u, self.state)]
        pays = {u.name: board.whole - board.error([u.name]) for u in left}
        return sorted(left, key=lambda u: -pays[u.name])

    def _try(self, mend: Mend) -> None:
        state = mend.apply(self.state)
        self._write(state)
        drop = self.judge.drop(self.path, self.data.validation)[1].value
        db = output_db(self.diagnosis.pair, self.path, self.few)
        better = db > self.db + GAIN or drop < self.drop
        kept = better and drop <= self.drop + 0.25 * self.promise and db > self.db - 3
        self.steps.append(Step(mend, self.drop, drop, db, self.path.stat().st_size, kept))
        if kept:
            self.state, self.drop, self.db = state, drop, db

    def _write(self, state: State) -> None:
        write_whole(self.path, serialized(state.file))


def _rounded(unit: Unit, state: State) -> bool:
    exact = state.exact.get(unit.name, {})
    return bool(unit.reads) or any(
        w.index in exact and not np.array_equal(exact[w.index], w.array) for w in unit.weights
    )
