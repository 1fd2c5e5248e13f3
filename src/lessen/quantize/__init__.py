"""Fewer bits for each weight: one file a technique."""

from .uniform import Uniform

__all__ = ["Uniform"]
