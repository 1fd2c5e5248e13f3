"""Who may know whom, and how long a file may be: docs/architecture.md as a test."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "lessen"
LAYER = {"codings", "errors", "models.layer", "statistics", "technique"}

# What each room may import, besides itself. A file or room that isn't named may import all but the cli.
KNOWS = {
    "errors": set[str](),
    "memory": set[str](),
    "codings": {"errors"},
    "userfile": {"errors"},
    "models": {"codings", "errors", "memory", "userfile"},
    "statistics": {"codings", "errors", "memory", "models.layer"},
    "technique": {"codings", "errors", "models.layer", "statistics"},
    "prune": LAYER,
    "quantize": LAYER,
    "share": LAYER,
    "factorize": LAYER,
    "stack": LAYER | {"factorize", "prune", "quantize", "share"},
    "solve": {"errors"},
    "budget": {"errors"},
    "data": {"budget", "errors", "userfile"},
    "targets": {"codings", "errors", "memory", "models"},
    "train": {"codings", "data", "errors", "models", "prune", "quantize", "statistics"},
    "report": {"budget", "errors"},
}
FILES = sorted(SOURCE.rglob("*.py"))


def imports(tree: ast.AST, package: tuple[str, ...]) -> Iterator[str]:
    """What a module imports from lessen, as dotted paths below it; `package` is where the module lies."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name.removeprefix("lessen.") for a in node.names if a.name.startswith("lessen."))
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            path = (*start, *(node.module or "").split("."))
            path = tuple(p for p in path if p)
            if node.level or path[:1] == ("lessen",):
                yield from (".".join((*path, a.name)).removeprefix("lessen.") for a in node.names)


def forbidden(source: str, room: str, package: tuple[str, ...]) -> list[str]:
    """The imports of a module that its room has no business with."""
    found = list(imports(ast.parse(source), package))
    bad = [name for name in found if name.split(".")[0] == "cli" != room]
    if room in KNOWS:
        allowed = KNOWS[room] | {room}
        bad += [n for n in found if not any(n == a or n.startswith(a + ".") for a in allowed)]
    return sorted(set(bad))


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_arrows(path: Path) -> None:
    package = ("lessen", *path.relative_to(SOURCE).parts[:-1])
    assert forbidden(path.read_text("utf8"), room_of(path), package) == []


@pytest.mark.parametrize(
    ("source", "room", "package", "bad"),
    [
        ("from ..errors import LessenError", "codings", ("lessen", "codings"), []),
        ("from ..models.layer import Layer", "quantize", ("lessen", "quantize"), []),
        ("from ..models import Model", "quantize", ("lessen", "quantize"), ["models.Model"]),
        ("from lessen.prune import Magnitude", "quantize", ("lessen", "quantize"), ["prune.Magnitude"]),
        ("import lessen.targets.ort", "solve", ("lessen",), ["targets.ort"]),
        ("def f():\n    from . import cli", "compress", ("lessen",), ["cli"]),
        ("import numpy, torch.nn", "codings", ("lessen", "codings"), []),
    ],
)
def test_the_arrows_can_be_broken(source: str, room: str, package: tuple[str, ...], bad: list[str]) -> None:
    assert forbidden(source, room, package) == bad


def test_no_file_is_over_400_lines() -> None:
    folders = ("src", "scripts", "examples", "benchmarks")
    lengths = {p: len(p.read_text("utf8").splitlines()) for f in folders for p in (ROOT / f).rglob("*.py")}
    assert {str(p.relative_to(ROOT)): n for p, n in lengths.items() if n > 400} == {}
