"""Weights that are gone: one file a technique."""

from .blocks import Blocks
from .channels import Channels
from .exact_obs import ExactOBS
from .fisher import Fisher
from .learned import LearnedMask
from .magnitude import Magnitude
from .nm import NM
from .optimal_brain import OptimalBrain
from .snip import Snip
from .taylor import Taylor
from .threshold import Threshold
from .wanda import Wanda

__all__ = [
    "NM", "Blocks", "Channels", "ExactOBS", "Fisher", "LearnedMask", "Magnitude", "OptimalBrain", "Snip", "Taylor",
    "Threshold", "Wanda",
]  # fmt: skip
