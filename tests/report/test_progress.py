"""Progress: seconds and log always, bars on terminals only, nothing left behind on Ctrl-C."""

import io
import threading
import time

import pytest

from lessen.report import Progress, progress
from report.test_terminal import Tape


def test_stages_are_timed_logged_and_quiet() -> None:
    log, screen = io.StringIO(), Tape()
    run = Progress(log, screen)
    with run.stage("search"):
        for _ in range(2):
            with run.stage("measure", total=3) as step:
                step()
                step(2)
                time.sleep(0.01)
    assert list(run.seconds) == ["search/measure", "search"]
    assert 0.02 <= run.seconds["search/measure"] <= run.seconds["search"]
    lines = log.getvalue().splitlines()
    assert len(lines) == 3 and "search/measure: done in 0." in lines[0] and lines[0].endswith("3 steps")
    assert screen.getvalue() == ""


def drawn(screen: Tape, text: str) -> None:
    """Wait until `text` is on the screen: a busy machine may take a while."""
    end = time.monotonic() + 20
    while text not in screen.getvalue():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_long_stage_draws_on_a_terminal_and_wipes_it(monkeypatch) -> None:
    monkeypatch.setattr(progress, "_PATIENCE", 0.05)
    monkeypatch.setenv("TERM", "xterm-256color")
    screen = Tape(terminal=True)
    with Progress(None, screen).stage("calibrate", total=4) as step:
        step(4)
        drawn(screen, "4/4")
    text = screen.getvalue()
    assert "calibrate" in text and "4/4" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is back


@pytest.mark.parametrize("quiet", [True, False])
def test_a_short_or_quiet_stage_draws_nothing(monkeypatch, quiet: bool) -> None:
    monkeypatch.setattr(progress, "_PATIENCE", 0.01 if quiet else 10.0)
    screen = Tape(terminal=True)
    with Progress(None, screen, quiet=quiet).stage("load"):
        time.sleep(0.1)
    assert screen.getvalue() == ""


def test_interrupt_passes_through_and_is_logged(monkeypatch) -> None:
    monkeypatch.setattr(progress, "_PATIENCE", 0.01)
    monkeypatch.setenv("TERM", "xterm-256color")
    log, screen, before = io.StringIO(), Tape(terminal=True), threading.active_count()
    run = Progress(log, screen)
    with pytest.raises(KeyboardInterrupt), run.stage("search"):
        drawn(screen, "search")
        raise KeyboardInterrupt
    assert "search: interrupted in" in log.getvalue() and "search" in run.seconds
    assert screen.getvalue().count("\x1b[?25h") == 1 and threading.active_count() == before
    with run.stage("report"):  # and the run can go on
        pass


def test_a_failure_is_named_and_a_full_disk_does_not_hide_it() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    log = io.StringIO()
    with pytest.raises(ZeroDivisionError), Progress(log).stage("solve"):
        raise ZeroDivisionError
    assert "solve: failed: ZeroDivisionError" in log.getvalue()
    with pytest.raises(ZeroDivisionError), Progress(Full()).stage("solve"):
        raise ZeroDivisionError


def test_a_note_is_one_safe_line() -> None:
    log = io.StringIO()
    Progress(log).note("two\nlines\x1b[31m")
    assert log.getvalue().count("\n") == 1 and "\x1b" not in log.getvalue()
