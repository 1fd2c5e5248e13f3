"""Where tables are printed: a rich console that is plain off a terminal and ASCII where the encoding needs it."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable
from typing import IO, Any, TextIO

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from lessen.report.phrases import printable

# One character for one, so that columns stay straight.
_ASCII = str.maketrans({"—": "-", "–": "-", "…": "~", "×": "x", "✓": "+", "✗": "!", "·": ".", "─": "-", "━": "-"})


def is_unicode(file: IO[str]) -> bool:
    """Whether `file` can take any character."""
    return (getattr(file, "encoding", None) or "ascii").lower().replace("-", "").replace("_", "").startswith("utf")


def show(parts: Iterable[RenderableType], file: TextIO | None = None, most_columns: int | None = None) -> None:
    """Print `parts` to `file` (standard output): no colour off a terminal, no line wider than `most_columns`."""
    file = sys.stdout if file is None else file
    real = Console(file=file)
    width = min(real.width, most_columns or real.width) if real.is_terminal else (most_columns or 100)
    page = Console(
        file=io.StringIO(), width=width, force_terminal=real.is_terminal, highlight=False, emoji=False, markup=False,
        color_system=real.color_system,  # type: ignore[arg-type]
        no_color=real.no_color, legacy_windows=False,
    )  # fmt: skip
    page.print(*parts, sep="\n")
    lines = page.file.getvalue().splitlines()  # type: ignore[attr-defined]
    text = "\n".join(line.rstrip() for line in lines) + "\n"
    file.write(text if is_unicode(file) else text.translate(_ASCII).encode("ascii", "replace").decode())
    file.flush()


def line(text: object, style: str = "") -> Text:
    """Untrusted text as one safe line; never read as markup."""
    return Text(printable(text), style=style)


def table(columns: Iterable[tuple[str, dict[str, Any]]], rows: Iterable[Iterable[object]]) -> Table:
    """A quiet table. Columns are (title, settings of `rich.table.Column`); cells are texts or `line(...)`."""
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold", border_style="dim")
    for title, settings in columns:
        made.add_column(title, **settings)
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else line(cell) for cell in row))
    return made


RIGHT: dict[str, Any] = {"justify": "right", "no_wrap": True}
KEEP: dict[str, Any] = {"no_wrap": True}
FOLD: dict[str, Any] = {"overflow": "fold"}
