"""Doors in, tracing, layers, groups, surgery."""

from .fold import fold_and_trace, fold_batchnorm
from .layer import Layer
from .model import Model, load
from .trace import Trace, trace

__all__ = ["Layer", "Model", "Trace", "fold_and_trace", "fold_batchnorm", "load", "trace"]
