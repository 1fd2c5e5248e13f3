"""Saying that something simpler was done than a technique's name promises, so that the report can say it too."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

log = logging.getLogger("lessen")

_heard: ContextVar[list[str] | None] = ContextVar("fall-backs", default=None)


def fall_back(layer: str, what: str) -> None:
    """Puts into the log, and tells whoever listens, what was done instead and why."""
    log.info("%s: %s", layer, what)
    heard = _heard.get()
    if heard is not None and what not in heard:
        heard.append(what)


@contextmanager
def fall_backs() -> Iterator[list[str]]:
    """Collects what `fall_back` is told inside the block."""
    heard: list[str] = []
    token = _heard.set(heard)
    try:
        yield heard
    finally:
        _heard.reset(token)
