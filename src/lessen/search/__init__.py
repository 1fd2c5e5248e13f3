"""Proposing plans and having them measured: the accuracy loop."""

from .accuracy import Measured, best, search

__all__ = ["Measured", "best", "search"]
