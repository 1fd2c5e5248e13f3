"""Doors out: one file a runtime; export, run, measure."""

from ..errors import LessenError, did_you_mean
from .coded import Coded, Execution
from .costs import LayerCosts
from .export import float_onnx
from .machine import machine, versions
from .measure import Latency, Memory, compare, peak_memory
from .ort import OnnxRuntime
from .ov import OpenVINO
from .packed import Packed
from .ranges import Range
from .smooth import Smoothed, smoothed
from .target import Kernels, Session, Target

TARGETS: tuple[type, ...] = (OnnxRuntime, OpenVINO, Packed)

__all__ = [
    "TARGETS", "Coded", "Execution", "Kernels", "Latency", "LayerCosts", "Memory", "OnnxRuntime", "OpenVINO", "Packed",
    "Range", "Session", "Smoothed", "Target", "compare", "float_onnx", "machine", "peak_memory", "smoothed", "target",
    "versions",
]  # fmt: skip


def target(name: str | Target) -> Target:
    """The target of this name; a target is given back as it is."""
    if not isinstance(name, str):
        return name
    known: dict[str, Target] = {t.name: t for t in (cls() for cls in TARGETS)}
    if name.lower() not in known:
        raise LessenError(f"unknown target {name!r}", mend=did_you_mean(name, known))
    return known[name.lower()]
