"""Quantized operators, computed on real numbers; and sequences and optionals."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .ops_nn import conv
from .values import Attributes, NotNative, Op, scalar, to_tensor, torch_dtype

_GRIDS = (torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32)


def _spread(a: Attributes, t: Tensor, x: Tensor) -> Tensor:
    """A scale or zero point shaped to broadcast over `x`: one, one for each slice of `axis`, or one a block of it."""
    axis, block = a.get("axis", 1) % max(x.dim(), 1), a.get("block_size", 0)
    if block and t.dim() == x.dim():
        return t.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    return t if t.numel() == 1 or t.dim() != 1 else t.reshape(-1, *(1,) * (x.dim() - 1 - axis))


def _real(value: Any) -> Tensor:
    """Grid points as a tensor; types too small for torch (int4, int2) are held in int8."""
    if isinstance(value, np.ndarray) and value.dtype.name in ("int4", "uint4", "int2", "uint2"):
        value = value.astype(np.int8)
    tensor = to_tensor(value)
    if tensor.dtype not in _GRIDS:
        raise NotNative(f"quantized type {tensor.dtype}")
    return tensor


def _quantize(a: Attributes, x: Tensor, scale: Tensor, zero: Any = None) -> Tensor:
    kind = torch_dtype(a.get("output_dtype")) if a.get("output_dtype") and zero is None else torch.uint8
    zero = torch.zeros((), dtype=kind, device=x.device) if zero is None else to_tensor(zero, x.device)
    if zero.dtype not in _GRIDS:
        raise NotNative(f"quantized type {zero.dtype}")
    wide = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
    steps = torch.round(x.to(wide) / _spread(a, scale.to(wide), x)) + _spread(a, zero, x).to(wide)
    limits = torch.iinfo(zero.dtype)
    return steps.clamp(limits.min, limits.max).to(zero.dtype)


def _dequantize(a: Attributes, x: Any, scale: Tensor, zero: Any = None) -> Tensor:
    codes = _real(x).to(scale.device)
    centre = 0 if zero is None else _spread(a, _real(zero).to(scale.device), codes).to(torch.int32)
    kind = torch_dtype(a.get("output_dtype")) if a.get("output_dtype") else scale.dtype
    return ((codes.to(torch.int32) - centre).to(scale.dtype) * _spread(a, scale, codes)).to(kind)


def _dynamic_quantize(a: Attributes, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = torch.round(torch.clamp(-low / scale, 0, 255)).to(torch.uint8)
    return _quantize(a, x, scale, zero), scale, zero


def _axis(axis: int) -> Attributes:
    return Attributes("", 21, {"axis": axis})


def _linear_matmul(a: Attributes, x: Tensor, sx: Tensor, zx: Tensor, y: Tensor, sy: Tensor, zy: Tensor,
                   so: Tensor, zo: Tensor) -> Tensor:  # fmt: skip
    left = _dequantize(_axis(-2), x, sx.double(), zx)
    right = _dequantize(_axis(-1), y, sy.double(), zy)
    return _quantize(_axis(-1), left @ right, so.double(), zo)


def _linear_conv(a: Attributes, x: Tensor, sx: Tensor, zx: Tensor, w: Tensor, sw: Tensor, zw: Tensor,
                 so: Tensor, zo: Tensor, bias: Tensor | None = None) -> Tensor:  # fmt: skip
    weight = _dequantize(_axis(0), w, sw.double(), zw)
    real = None if bias is None else bias.double() * sx.double() * sw.double()
    y = conv(a, _dequantize(_axis(1), x, sx.double(), zx), weight, real)
    return _quantize(_axis(1), y, so.double(), zo)


def _at(a: Attributes, items: list[Any], where: Any) -> Any:
    return items[int(scalar(where))]


def _insert(a: Attributes, items: list[Any], item: Any, where: Any = None) -> list[Any]:
    place = len(items) if where is None else int(scalar(where))
    place = place + len(items) if place < 0 else place
    return [*items[:place], item, *items[place:]]


def _erase(a: Attributes, items: list[Any], where: Any = None) -> list[Any]:
    place = (-1 if where is None else int(scalar(where))) % len(items)
    return [*items[:place], *items[place + 1 :]]


def _split_to(a: Attributes, x: Tensor, sizes: Any = None) -> list[Any]:
    axis = a.get("axis", 0)
    if sizes is None:
        parts = list(torch.split(x, 1, axis))
        return parts if a.get("keepdims", 1) else [p.squeeze(axis) for p in parts]
    flat = to_tensor(sizes)
    return list(torch.split(x, int(flat) if flat.dim() == 0 else flat.tolist(), axis))


def _join(a: Attributes, items: list[Tensor]) -> Tensor:
    axis = a.get("axis")
    return torch.stack(items, axis) if a.get("new_axis", 0) else torch.cat(items, axis)


OPS: dict[str, Op] = {
    "QuantizeLinear": Op(_quantize), "DequantizeLinear": Op(_dequantize, (0, 2)),
    "DynamicQuantizeLinear": Op(_dynamic_quantize), "QLinearMatMul": Op(_linear_matmul),
    "QLinearConv": Op(_linear_conv),
    "SequenceEmpty": Op(lambda a: []), "SequenceConstruct": Op(lambda a, *xs: list(xs)),
    "SequenceAt": Op(_at, (1,)), "SequenceInsert": Op(_insert), "SequenceErase": Op(_erase),
    "SequenceLength": Op(lambda a, items: np.array(len(items), np.int64)), "SplitToSequence": Op(_split_to),
    "Optional": Op(lambda a, x=None: x), "OptionalGetElement": Op(lambda a, x=None: x),
    "OptionalHasElement": Op(lambda a, x=None: np.array(x is not None)), "ConcatFromSequence": Op(_join),
    "BitCast": Op(lambda a, x: x.view(torch_dtype(a.get("to")))),
}  # fmt: skip
