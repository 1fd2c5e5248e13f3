"""Weights as products of thinner ones: one file a technique."""

from .svd import SVD

__all__ = ["SVD"]
