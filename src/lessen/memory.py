"""Giving memory back: what a stage has freed belongs to the machine again before the next one asks for more."""

from __future__ import annotations

import contextlib
import ctypes


def give_back() -> None:
    """Asks the C library to return freed pages (glibc keeps them, hundreds of MB after a batch of activations)."""
    with contextlib.suppress(OSError, AttributeError):  # another C library: it does what it does
        ctypes.CDLL(None).malloc_trim(0)
