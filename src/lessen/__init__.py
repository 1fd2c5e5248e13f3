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
    from .diagnosis import Diagnosis, diagnose
    from .factorize import SVD
    from .inspection import inspect
    from .integers import write_integers
    from .models import Layer, Model, load
    from .models.batchnorm import reestimated
    from .models.equalize import equalized
    from .models.groups import couple
    from .models.packed import load_into, unpack_file
    from .models.rotate import rotated
    from .plan import Plan, Treatment
    from .prune import (
        NM,
        Blocks,
        ExactOBS,
        Fisher,
        LearnedMask,
        Magnitude,
        OptimalBrain,
        Snip,
        Taylor,
        Threshold,
        Wanda,
    )
    from .prune.channels import Channels
    from .prune.depth import Depth
    from .quantize import (
        AWQ,
        Dynamic,
        FixedPoint,
        HalfSteps,
        IntegerNet,
        LowFloat,
        NormalFloat,
        PowerOfTwo,
        QFormat,
        Uniform,
        accumulator_bits,
        integer_net,
    )
    from .refold import Rotate, activation_aware
    from .share import KMeans, Quantile
    from .stack import Stack
    from .statistics import Statistics
    from .statistics.datafree import made_up
    from .targets import OnnxRuntime, OpenVINO, Packed
    from .train import (
        GMP,
        IMP,
        L0,
        L1,
        LSQ,
        PACT,
        STR,
        Adaptive,
        AdaRound,
        BlockReconstruction,
        Distillation,
        FineTune,
        GroupLasso,
        LearnedPruning,
        Movement,
        RigL,
        Slimming,
        StraightThrough,
        StructuredL0,
        StructuredMovement,
    )

__version__ = "0.1.0"

_HOMES = {
    "application": "apply", "budget": "Budget", "compression": "Compression Result compress replay",
    "data": "load_data", "diagnosis": "Diagnosis diagnose", "factorize": "SVD", "inspection": "inspect",
    "integers": "write_integers", "models": "Layer Model load",
    "models.batchnorm": "reestimated", "models.equalize": "equalized", "models.groups": "couple",
    "models.packed": "load_into unpack_file", "models.rotate": "rotated", "plan": "Plan Treatment",
    "prune": "Blocks ExactOBS Fisher LearnedMask Magnitude NM OptimalBrain Snip Taylor Threshold Wanda",
    "prune.channels": "Channels", "prune.depth": "Depth", "share": "KMeans Quantile", "stack": "Stack",
    "quantize": "AWQ Dynamic FixedPoint HalfSteps IntegerNet LowFloat NormalFloat PowerOfTwo QFormat "
    "Uniform accumulator_bits integer_net", "refold": "Rotate activation_aware",
    "statistics": "Statistics", "statistics.datafree": "made_up", "targets": "OnnxRuntime OpenVINO Packed",
    "train": "AdaRound Adaptive BlockReconstruction Distillation FineTune GMP GroupLasso IMP L0 L1 LSQ LearnedPruning "
    "Movement PACT RigL STR Slimming StraightThrough StructuredL0 StructuredMovement",
}  # fmt: skip
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}

__all__ = [
    "AWQ", "GMP", "IMP", "L0", "L1", "LSQ", "NM", "PACT", "STR", "SVD", "AdaRound", "Adaptive", "BlockReconstruction",
    "Blocks", "Budget", "BudgetNotMet", "Channels", "Compression", "Depth", "Diagnosis", "Distillation", "Dynamic",
    "ExactOBS", "FineTune", "Fisher", "FixedPoint", "GroupLasso", "HalfSteps", "IntegerNet", "KMeans", "Layer",
    "LearnedMask", "LearnedPruning", "LessenError", "LowFloat", "Magnitude", "Model", "Movement", "NormalFloat",
    "OnnxRuntime", "OpenVINO", "OptimalBrain", "Packed", "Plan", "PowerOfTwo", "QFormat", "Quantile", "Result", "RigL",
    "Rotate", "Slimming", "Snip", "Stack", "Statistics", "StraightThrough", "StructuredL0", "StructuredMovement",
    "Taylor", "Threshold", "Treatment", "Uniform", "Wanda", "accumulator_bits", "activation_aware", "apply", "compress",
    "couple", "diagnose", "equalized", "inspect", "integer_net", "load", "load_data", "load_into", "made_up",
    "reestimated", "replay", "rotated", "unpack_file", "write_integers",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'lessen' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
