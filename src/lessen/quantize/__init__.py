"""Fewer bits for each weight: one file a technique."""

from .awq import AWQ
from .dynamic import Dynamic
from .fixed_point import FixedPoint
from .half_steps import HalfSteps
from .integer import IntegerNet
from .integer_build import integer_net
from .low_float import LowFloat
from .normal_float import NormalFloat
from .power_of_two import PowerOfTwo
from .qformat import QFormat, accumulator_bits
from .uniform import Uniform

__all__ = [
    "AWQ", "Dynamic", "FixedPoint", "HalfSteps", "IntegerNet", "LowFloat", "NormalFloat", "PowerOfTwo", "QFormat",
    "Uniform", "accumulator_bits", "integer_net",
]  # fmt: skip
