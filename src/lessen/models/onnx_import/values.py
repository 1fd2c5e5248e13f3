"""The values that flow through an imported graph, and how they change form.

A value is a `Tensor`; or a *host* value, a small numpy array holding shape arithmetic (dtype `object` when it
contains symbolic sizes of `torch.export`); or a list (an ONNX sequence); or None (an absent optional).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

HOST_LIMIT = 1024  # host arithmetic stays small; anything larger becomes a tensor


class NotNative(Exception):
    """This node can't be run by torch; the reason is the message. The node becomes opaque."""


class NotHost(Exception):
    """This shape arithmetic can't be done on the host (symbolic or large): torch does it."""


@dataclass(frozen=True)
class Op:
    """How one operator runs: `fn(a, *inputs)`; inputs in `static` slots arrive as host values; `check` may refuse."""

    fn: Callable[..., Any]
    static: tuple[int, ...] = ()
    check: Callable[[Attributes], str] | None = None


@dataclass(frozen=True)
class Attributes:
    """The attributes of a node as plain values, with what else its meaning depends on."""

    op: str
    opset: int
    values: dict[str, Any] = field(default_factory=dict)
    inputs: int = 0
    outputs: int = 1

    def get(self, name: str, default: Any = None) -> Any:
        return self.values.get(name, default)


_TORCH = {
    ir.DataType.FLOAT: torch.float32, ir.DataType.DOUBLE: torch.float64, ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16, ir.DataType.INT8: torch.int8, ir.DataType.INT16: torch.int16,
    ir.DataType.INT32: torch.int32, ir.DataType.INT64: torch.int64, ir.DataType.UINT8: torch.uint8,
    ir.DataType.UINT16: torch.uint16, ir.DataType.UINT32: torch.uint32, ir.DataType.UINT64: torch.uint64,
    ir.DataType.BOOL: torch.bool, ir.DataType.COMPLEX64: torch.complex64, ir.DataType.COMPLEX128: torch.complex128,
}  # fmt: skip
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_PLAIN = set("?bhilqBHILQefdFD")  # numpy's own kinds that torch has too


def torch_dtype(code: int) -> torch.dtype:
    """The torch dtype of an ONNX data type number; raises `NotNative` for strings, float8, int4 and the like."""
    try:
        return _TORCH[ir.DataType(code)]
    except (KeyError, ValueError):
        raise NotNative(f"data type {_name(code)} has no torch arithmetic") from None


def onnx_dtype(dtype: torch.dtype) -> ir.DataType:
    return next(k for k, v in _TORCH.items() if v is dtype)


def _name(code: int) -> str:
    return ir.DataType(code).name if code in set(ir.DataType) else str(code)


def is_host(value: Any) -> bool:
    return isinstance(value, np.ndarray)


def host(items: Any, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Sizes (ints or symbolic ints) as a host array: int64, or `object` when any is symbolic."""
    items = list(items)
    shape = (len(items),) if shape is None else shape
    if all(isinstance(i, (int, np.integer)) for i in items):
        return np.array(items, dtype=np.int64).reshape(shape)
    return host_object(items, shape)


def host_object(items: list[Any], shape: tuple[int, ...]) -> np.ndarray:
    """Values that may be symbolic, as a host array."""
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array.reshape(shape)


def to_tensor(value: Any, device: torch.device | None = None) -> Tensor:
    """A tensor from a tensor or a host value."""
    if isinstance(value, Tensor):
        return value
    if not isinstance(value, np.ndarray):
        raise NotNative(f"a {type(value).__name__} where a tensor is needed")
    if value.dtype.kind in "SU":
        raise NotNative("strings")
    if value.dtype == object:
        return _symbolic(value)
    if value.dtype == _BFLOAT16:
        return torch.from_numpy(np.array(value).view(np.int16)).view(torch.bfloat16).to(device)
    if value.dtype.char not in _PLAIN:
        raise NotNative(f"data type {value.dtype}")
    return torch.from_numpy(np.array(value).view(value.dtype.str)).to(device)


def _symbolic(value: np.ndarray) -> Tensor:
    items = value.reshape(-1).tolist()
    if not items or any(isinstance(i, (str, bytes)) for i in items):
        raise NotNative("strings")
    kind = torch.float32 if any(isinstance(i, (float, torch.SymFloat)) for i in items) else torch.int64
    return torch.stack([torch.scalar_tensor(i, dtype=kind) for i in items]).reshape(value.shape)


def to_host(value: Any) -> np.ndarray:
    """A numpy array from a host value or a tensor (which then must not be symbolic)."""
    if isinstance(value, np.ndarray):
        return value
    tensor = value.detach().cpu()
    if tensor.dtype is torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(_BFLOAT16)
    return tensor.numpy()


def ints(value: Any) -> list[Any]:
    """Sizes, axes or offsets as a flat list of ints (symbolic ones stay symbolic)."""
    if isinstance(value, np.ndarray):
        return value.reshape(-1).tolist()
    return value.reshape(-1).tolist() if isinstance(value, Tensor) else list(value)


def scalar(value: Any) -> Any:
    """The one element of a host value or a tensor, as a Python number."""
    if isinstance(value, (np.ndarray, Tensor)):
        items = value.reshape(-1).tolist()
        return items[0]
    return value


def operand(a: Attributes, inputs: tuple[Any, ...], slot: int, name: str, default: Any = None) -> Any:
    """A list of numbers that newer opsets pass as an input and older ones as an attribute; None when absent."""
    if len(inputs) > slot and inputs[slot] is not None:
        return ints(inputs[slot])
    return a.get(name, default)
