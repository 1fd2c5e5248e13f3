"""Weights that share values: one file a technique."""

from .kmeans import KMeans

__all__ = ["KMeans"]
