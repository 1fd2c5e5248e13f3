"""Weights that are gone: one file a technique."""

from .channels import Channels
from .magnitude import Magnitude
from .nm import NM
from .optimal_brain import OptimalBrain
from .wanda import Wanda

__all__ = ["NM", "Channels", "Magnitude", "OptimalBrain", "Wanda"]
