"""Calibration: one pass, everything the techniques asked for."""

from .collect import collect
from .losses import error_of_outputs, sampled_labels
from .statistics import Statistics

__all__ = ["Statistics", "collect", "error_of_outputs", "sampled_labels"]
