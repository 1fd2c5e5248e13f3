"""Weights that share values: one file a technique."""

from .kmeans import KMeans
from .quantile import Quantile

__all__ = ["KMeans", "Quantile"]
