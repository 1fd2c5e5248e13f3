"""Errors that carry the input, the place and the mend; and the late import of extras."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class LessenError(ValueError):
    """Wrong use or bad input.

    Args:
        what: what is wrong, with the offending value.
        where: the file, layer or option it was found in.
        mend: what the user can do about it.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", mend: str = "") -> None:
        self.what, self.where, self.mend = what, where, mend
        super().__init__("".join((f"{where}: " if where else "", what, f"\n  mend: {mend}" if mend else "")))


class BudgetNotMet(LessenError):
    """No plan that was measured meets every demand of the budget; raised by `Result.checked` only."""

    exit_code = 3


def extra(module: str, name: str) -> ModuleType:
    """Import `module` late; if it is missing, say which extra (`pip install lessen[name]`) brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise LessenError(f"{module} can't be imported ({error})", mend=f"pip install 'lessen[{name}]'") from error


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """A mend for an unknown name: the nearest known one, and the list."""
    options = sorted(options)
    near = difflib.get_close_matches(word.lower(), [o.lower() for o in options], 1, 0.5)
    hit = next((o for o in options if near and o.lower() == near[0]), None)
    return (f"did you mean {hit!r}? " if hit else "") + "known: " + ", ".join(options)
