"""`RunFolder`: results are made beside their place and moved there when they are whole."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from .errors import LessenError


class RunFolder:
    """A folder that appears whole or not at all.

    Files are written to a temporary folder next to `out` (same disk, so that moving is one step). `commit` moves each
    of them into place; files that were in `out` before and are not ours stay untouched. Whatever ends the `with`
    block before that (an error, Ctrl-C, a full disk) leaves `out` as it was.

    Args:
        out: where the results go; None makes a temporary folder that is kept.
    """

    def __init__(self, out: str | Path | None) -> None:
        self.out = Path(tempfile.mkdtemp(prefix="lessen-")) if out is None else Path(out)
        if self.out.exists() and not self.out.is_dir():
            raise LessenError("is a file, not a folder", where=str(self.out), mend="give another --out")
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self.work = Path(tempfile.mkdtemp(prefix=f".{self.out.name}.", suffix=".partial", dir=self.out.parent))
        except OSError as error:
            raise LessenError(
                f"can't be written: {error.strerror}", where=str(self.out), mend="give another --out"
            ) from error

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        shutil.rmtree(self.work, ignore_errors=True)

    def path(self, name: str) -> Path:
        """Where to write a result called `name` for now."""
        return self.work / name

    def scratch(self, name: str) -> Path:
        """Where to write what is not a result; gone after the run."""
        folder = self.work / ".scratch"
        folder.mkdir(exist_ok=True)
        return folder / name

    def commit(self) -> dict[str, Path]:
        """Moves the results to `out`; name -> final path."""
        shutil.rmtree(self.work / ".scratch", ignore_errors=True)
        names = sorted(path.name for path in self.work.iterdir())
        with _undisturbed():
            if not self.out.exists():
                _let_read(self.work)
                self.work.rename(self.out)  # all of it in one step
            for name in names if self.work.exists() else ():
                os.replace(self.work / name, self.out / name)
        return {name: self.out / name for name in names}


def _let_read(folder: Path) -> None:
    """Temporary folders are private; this one becomes a folder like any other."""
    mask = os.umask(0)
    os.umask(mask)
    folder.chmod(0o777 & ~mask)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Ctrl-C waits until all files are in their place."""
    if threading.current_thread() is not threading.main_thread():  # signals never come here
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
