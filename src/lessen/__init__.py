"""lessen: a trained network, some data and a budget in; the smallest or fastest network that holds it out.

Every public name is here and is imported when it is first used, so that `import lessen` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .errors import BudgetNotMet, LessenError

if TYPE_CHECKING:
    from .application import apply
    from .budget import Budget
    from .compression import Compression, Result, compress, replay
    from .data import load_data
    from .factorize import SVD
    from .inspection import inspect
    from .models import Layer, Model, load
    from .models.packed import load_into, unpack_file
    from .plan import Plan, Treatment
    from .prune import NM, Magnitude, OptimalBrain, Wanda
    from .prune.channels import Channels
    from .quantize import (
        FixedPoint,
        IntegerNet,
        LowFloat,
        NormalFloat,
        PowerOfTwo,
        QFormat,
        Uniform,
        accumulator_bits,
        integer_net,
    )
    from .share import KMeans, Quantile
    from .stack import Stack
    from .statistics import Statistics
    from .targets import OnnxRuntime, OpenVINO, Packed
    from .train import Distillation, FineTune

__version__ = "0.1.0"

_HOMES = {
    "application": "apply", "budget": "Budget", "compression": "Compression Result compress replay",
    "data": "load_data", "factorize": "SVD", "inspection": "inspect", "models": "Layer Model load",
    "models.packed": "load_into unpack_file", "plan": "Plan Treatment", "prune": "Magnitude NM OptimalBrain Wanda",
    "prune.channels": "Channels", "share": "KMeans Quantile", "stack": "Stack",
    "quantize": "FixedPoint IntegerNet LowFloat NormalFloat PowerOfTwo QFormat Uniform accumulator_bits integer_net",
    "statistics": "Statistics", "targets": "OnnxRuntime OpenVINO Packed", "train": "Distillation FineTune",
}  # fmt: skip
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = [
    "NM", "SVD", "Budget", "BudgetNotMet", "Channels", "Compression", "Distillation", "FineTune", "FixedPoint",
    "IntegerNet", "KMeans", "Layer", "LessenError", "LowFloat", "Magnitude", "Model", "NormalFloat", "OnnxRuntime",
    "OpenVINO", "OptimalBrain", "Packed", "Plan", "PowerOfTwo", "QFormat", "Quantile", "Result", "Stack", "Statistics",
    "Treatment", "Uniform", "Wanda", "accumulator_bits", "apply", "compress", "inspect", "integer_net", "load",
    "load_data", "load_into", "replay", "unpack_file",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'lessen' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
