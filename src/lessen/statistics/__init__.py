"""Calibration: one pass, everything the techniques asked for."""

from .collect import collect
from .losses import error_of_outputs, sampled_labels
from .problem import forget_factor
from .statistics import Statistics

__all__ = ["Statistics", "collect", "error_of_outputs", "forget_factor", "sampled_labels"]
