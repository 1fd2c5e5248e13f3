"""Where the zoo's files lie, and what happens when one is missing."""

from __future__ import annotations

import os
from pathlib import Path

CHECKPOINTS = Path(__file__).parent / "checkpoints"


class Missing(Exception):
    """An item of the zoo isn't here. A test skips on it (and fails in CI); see tests/conftest.py."""


def root() -> Path:
    """The cache folder: $LESSEN_ZOO, else .cache/zoo in the repository."""
    return Path(os.environ.get("LESSEN_ZOO") or Path(__file__).parents[2] / ".cache" / "zoo").absolute()


def item(name: str) -> Path:
    """The folder of one fetched item; raises `Missing` with what to do."""
    folder = root() / name
    if not folder.is_dir():
        raise Missing(f"{name} is not in {root()}; `make zoo` fetches it")
    return folder
