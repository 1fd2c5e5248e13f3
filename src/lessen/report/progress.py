"""Progress with time left on a terminal, silence elsewhere, and every stage with its seconds in `run.log`."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from lessen.report.console import is_unicode
from lessen.report.phrases import printable

_PATIENCE = 2.0  # seconds before a bar is shown: shorter stages need none


class Step:
    """Call it to say that `count` of the stage's total are done; `seconds` since the stage began."""

    def __init__(self, name: str, total: float | None) -> None:
        self.name, self.total, self.done, self.started = name, total, 0.0, time.perf_counter()

    def __call__(self, count: float = 1) -> None:
        self.done += count

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started


class Progress:
    """Times the stages of a run.

    Args:
        log: an open text file; a line for each stage and each `note`, flushed at once.
        file: where bars go, standard error by default; nothing is drawn unless it is a terminal.
        quiet: draw nothing even on a terminal.
    """

    def __init__(self, log: TextIO | None = None, file: TextIO | None = None, quiet: bool = False) -> None:
        self._log = log
        self._console = Console(file=sys.stderr if file is None else file)
        self._draws = self._console.is_terminal and not quiet
        self._open: list[Step] = []
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def stage(self, name: str, total: float | None = None) -> Iterator[Step]:
        """Time a stage; one that is opened within another is named "outer/inner", and a repeated one adds up."""
        step = Step(f"{self._open[-1].name}/{name}" if self._open else name, total)
        self._open.append(step)
        how = "interrupted"
        try:
            with self._drawn(step):
                yield step
            how = "done"
        except Exception as error:
            how = f"failed: {type(error).__name__}"
            raise
        finally:
            self._open.remove(step)
            self.seconds[step.name] = self.seconds.get(step.name, 0.0) + step.seconds
            with contextlib.suppress(OSError) if how != "done" else contextlib.nullcontext():
                steps = f", {step.done:g} steps" if step.done else ""
                self._write(f"{step.name}: {how} in {step.seconds:.3f} s{steps}")

    def note(self, text: str) -> None:
        """One line for `run.log`; on the screen it is not shown."""
        self._write(text)

    def _write(self, text: str) -> None:
        if self._log is not None:
            self._log.write(f"{time.strftime('%H:%M:%S')} {printable(text)}\n")
            self._log.flush()

    @contextlib.contextmanager
    def _drawn(self, step: Step) -> Iterator[None]:
        """Draw the outermost stage once it has taken longer than our patience, whether or not it steps."""
        if not self._draws or len(self._open) > 1:
            yield
            return
        over = threading.Event()
        painter = threading.Thread(target=self._paint, args=(step, over), daemon=True)
        painter.start()
        try:
            yield
        finally:  # also on Ctrl-C: the bar is wiped and the cursor is back before anything else is printed
            over.set()
            painter.join()

    def _paint(self, step: Step, over: threading.Event) -> None:
        if over.wait(_PATIENCE):
            return
        with self._bar() as bar:
            tasks: dict[str, TaskID] = {}
            while not over.wait(0.1):
                self._update(bar, tasks)
                bar.refresh()

    def _update(self, bar: Bar, tasks: dict[str, TaskID]) -> None:
        shown = list(self._open)  # the stage and the ones within it, outermost first
        for name in set(tasks) - {step.name for step in shown}:
            bar.remove_task(tasks.pop(name))
        for step in shown:
            if step.name not in tasks:
                tasks[step.name] = bar.add_task(printable(step.name), total=step.total, count="")
            count = f"{step.done:g}/{step.total:g}" if step.total else ""
            bar.update(tasks[step.name], total=step.total, completed=step.done, count=count)

    def _bar(self) -> Bar:
        spinner = "dots" if is_unicode(self._console.file) else "line"
        return Bar(
            SpinnerColumn(spinner), TextColumn("{task.description}", markup=False), BarColumn(30),
            TextColumn("{task.fields[count]}"), TimeRemainingColumn(elapsed_when_finished=True),
            console=self._console, transient=True, auto_refresh=False, redirect_stdout=False,
            redirect_stderr=self._console.file is sys.stderr,  # a warning goes above the bar, not through it
        )  # fmt: skip
