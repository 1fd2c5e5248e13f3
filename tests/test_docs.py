"""The code of README.md and docs/ runs: blocks of python or bash after a line `<!-- run -->`.

The blocks of one document run in order in one empty folder, in which `examples` is the repository's.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [p for p in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if p.is_file()]
BLOCK = re.compile(r"^<!-- run -->\s*\n```(python|bash)\n(.*?)^```", re.M | re.S)
COMMANDS = {"python": [sys.executable, "-"], "bash": ["bash", "-euo", "pipefail"]}


def blocks(text: str) -> list[tuple[int, str, str]]:
    """The marked blocks: (line, language, code)."""
    return [(text[: m.start(2)].count("\n") + 1, m[1], m[2]) for m in BLOCK.finditer(text)]


def run(language: str, code: str, folder: Path) -> str:
    """Run one block; returns what it printed, raises with that when it fails."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        COMMANDS[language], input=code, cwd=folder, capture_output=True, text=True, timeout=600,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT / "tests")},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"exit {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_documents_run(document: Path, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    for line, language, code in blocks(document.read_text("utf8")):
        try:
            run(language, code, tmp_path)
        except RuntimeError as error:
            pytest.fail(f"{document.name}, line {line}: {error}", pytrace=False)


def test_only_marked_blocks_are_found() -> None:
    text = "a\n```python\n1\n```\n<!-- run -->\n```bash\nls\n```\n\n<!-- run -->\n```python\nx = 1\nx\n```\n"
    assert blocks(text) == [(7, "bash", "ls\n"), (12, "python", "x = 1\nx\n")]


def test_a_failing_block_is_an_error(tmp_path: Path) -> None:
    assert run("bash", "echo one; echo two > three", tmp_path) == "one\n"
    assert (tmp_path / "three").read_text() == "two\n"
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        run("python", "1 / 0", tmp_path)
