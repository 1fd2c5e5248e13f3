"""Every operator that runs natively, by name (`Domain::Name` outside the standard domain)."""

from __future__ import annotations

from . import ops_attention, ops_math, ops_nn, ops_quant, ops_reduce, ops_resize, ops_shape, recurrent
from .values import Op

NATIVE: dict[str, Op] = {
    **ops_math.OPS, **ops_shape.OPS, **ops_reduce.OPS, **ops_nn.OPS, **ops_attention.OPS, **ops_resize.OPS,
    **ops_quant.OPS, **recurrent.OPS,
}  # fmt: skip
STANDARD = ("", "ai.onnx")


def key(domain: str, op_type: str) -> str:
    """The name of an operator in the tables."""
    return op_type if domain in STANDARD else f"{domain}::{op_type}"
