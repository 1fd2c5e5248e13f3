"""`RunFolder`: results are made beside their place and moved there when they are whole."""

from __future__ import annotations

import os
import shutil
import tempfile
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
        self.out.mkdir(exist_ok=True)
        placed = {}
        for path in sorted(self.work.iterdir()):
            os.replace(path, self.out / path.name)
            placed[path.name] = self.out / path.name
        return placed
