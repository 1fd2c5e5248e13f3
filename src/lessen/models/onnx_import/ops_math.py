"""Elementwise arithmetic, comparison, logic, and products of matrices."""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .values import Attributes, NotNative, Op, to_tensor, torch_dtype

INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64)
_SHIFT = {"LEFT": torch.bitwise_left_shift, "RIGHT": torch.bitwise_right_shift}


def unary(fn: Any) -> Op:
    return Op(lambda a, x: fn(x))


def _aligned(a: Attributes, x: Tensor, y: Tensor) -> Tensor:
    """The second operand, as opsets below 7 broadcast it (from `axis` on)."""
    if a.opset < 7 and a.get("axis") is not None:
        return y.reshape(*y.shape, *(1,) * (x.dim() - a.get("axis") - y.dim()))
    return y


def binary(fn: Any) -> Op:
    return Op(lambda a, x, y: fn(x, _aligned(a, x, y)))


def _divide(x: Tensor, y: Tensor) -> Tensor:
    return torch.div(x, y, rounding_mode="trunc") if x.dtype in INTEGERS else x / y


def _modulo(a: Attributes, x: Tensor, y: Tensor) -> Tensor:
    return torch.fmod(x, y) if a.get("fmod", 0) else torch.remainder(x, y)


def _power(a: Attributes, x: Tensor, y: Tensor) -> Tensor:
    return torch.pow(x, y).to(x.dtype)


def folded(fn: Any) -> Op:
    return Op(lambda a, *xs: reduce(fn, xs))


def _mean(a: Attributes, *xs: Tensor) -> Tensor:
    return reduce(torch.add, xs) / len(xs)


def _clip(a: Attributes, x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    low = a.get("min") if low is None else to_tensor(low, x.device)
    high = a.get("max") if high is None else to_tensor(high, x.device)
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        x = x if low is None else torch.maximum(x, torch.as_tensor(low, dtype=x.dtype))
        return x if high is None else torch.minimum(x, torch.as_tensor(high, dtype=x.dtype))
    return x if low is None and high is None else torch.clamp(x, low, high)


def _cast(a: Attributes, x: Tensor) -> Tensor:
    return cast(x, torch_dtype(a.get("to")))


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """ONNX Cast: floats are cut towards zero; a complex number keeps its real part."""
    return x.to(dtype)


def _cast_like(a: Attributes, x: Tensor, like: Tensor) -> Tensor:
    return cast(x, like.dtype)


def _bit_shift(a: Attributes, x: Tensor, y: Tensor) -> Tensor:
    wide = _SHIFT[a.get("direction")](x.to(torch.int64), y.to(torch.int64))
    if x.dtype is torch.uint64:
        raise NotNative("uint64 shift")
    return wide.to(x.dtype)


def _is_inf(a: Attributes, x: Tensor) -> Tensor:
    up, down = a.get("detect_positive", 1), a.get("detect_negative", 1)
    return (torch.isposinf(x) & bool(up)) | (torch.isneginf(x) & bool(down))


def _matmul(a: Attributes, x: Tensor, y: Tensor) -> Tensor:
    return torch.matmul(x, y)


def _gemm(a: Attributes, x: Tensor, y: Tensor, z: Tensor | None = None) -> Tensor:
    x = x.t() if a.get("transA", 0) else x
    y = y.t() if a.get("transB", 0) else y
    product, alpha, beta = x @ y, a.get("alpha", 1.0), a.get("beta", 1.0)
    product = product if alpha == 1.0 else (product * alpha).to(product.dtype)
    return product if z is None else product + (z if beta == 1.0 else (z * beta).to(z.dtype))


def _matmul_integer(a: Attributes, x: Tensor, y: Tensor, zx: Any = None, zy: Any = None) -> Tensor:
    return torch.matmul(centred(x, zx, -2), centred(y, zy, -1)).to(torch.int32)


def centred(x: Tensor, zero: Any, axis: int) -> Tensor:
    """An integer tensor less its zero point, in float64 (exact, and fast where torch has no integer product)."""
    wide = x.to(torch.float64)
    if zero is None:
        return wide
    zero = to_tensor(zero, x.device).to(torch.float64)
    if zero.dim() == 1 and zero.numel() > 1:
        zero = zero.reshape(-1, *(1,) * (-axis - 1))
    return wide - zero


def _einsum(a: Attributes, *xs: Tensor) -> Tensor:
    return torch.einsum(a.get("equation").replace(" ", ""), *xs)


def _gelu(a: Attributes, x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh" if a.get("approximate", "none") == "tanh" else "none")


def _prelu(a: Attributes, x: Tensor, slope: Tensor) -> Tensor:
    if a.opset < 7 and slope.dim() == 1 and slope.numel() > 1:
        slope = slope.reshape(-1, *(1,) * (x.dim() - 2))
    return torch.where(x < 0, x * slope, x)


def _hard_sigmoid(a: Attributes, x: Tensor) -> Tensor:
    return torch.clamp(x * a.get("alpha", 0.2) + a.get("beta", 0.5), 0, 1)


def _selu(a: Attributes, x: Tensor) -> Tensor:
    alpha, gamma = a.get("alpha", 1.67326319217681884765625), a.get("gamma", 1.05070102214813232421875)
    return gamma * torch.where(x > 0, x, alpha * torch.expm1(torch.clamp(x, max=0)))


def _celu(a: Attributes, x: Tensor) -> Tensor:
    alpha = a.get("alpha", 1.0)
    return torch.clamp(x, min=0) + torch.clamp(alpha * torch.expm1(x / alpha), max=0)


def _shrink(a: Attributes, x: Tensor) -> Tensor:
    bias, edge = a.get("bias", 0.0), a.get("lambd", 0.5)
    shrunk = torch.where(x < -edge, x + bias, torch.where(x > edge, x - bias, torch.zeros_like(x)))
    return shrunk.to(x.dtype)


OPS: dict[str, Op] = {
    "Abs": unary(torch.abs), "Acos": unary(torch.acos), "Acosh": unary(torch.acosh), "Asin": unary(torch.asin),
    "Asinh": unary(torch.asinh), "Atan": unary(torch.atan), "Atanh": unary(torch.atanh), "Ceil": unary(torch.ceil),
    "Cos": unary(torch.cos), "Cosh": unary(torch.cosh), "Erf": unary(torch.erf), "Exp": unary(torch.exp),
    "Floor": unary(torch.floor), "IsNaN": unary(torch.isnan), "Log": unary(torch.log), "Neg": unary(torch.neg),
    "Not": unary(torch.logical_not), "Reciprocal": unary(torch.reciprocal), "Relu": unary(torch.relu),
    "Round": unary(torch.round), "Sigmoid": unary(torch.sigmoid), "Sign": unary(torch.sign),
    "Sin": unary(torch.sin), "Sinh": unary(torch.sinh), "Softsign": unary(F.softsign), "Sqrt": unary(torch.sqrt),
    "Tan": unary(torch.tan), "Tanh": unary(torch.tanh), "Mish": unary(F.mish), "HardSwish": unary(F.hardswish),
    "BitwiseNot": unary(torch.bitwise_not), "Identity": unary(lambda x: x), "Det": unary(torch.linalg.det),
    "Softplus": unary(lambda x: torch.logaddexp(x, torch.zeros_like(x))),
    "Add": binary(torch.add), "Sub": binary(torch.sub), "Mul": binary(torch.mul), "Div": binary(_divide),
    "And": binary(torch.logical_and), "Or": binary(torch.logical_or), "Xor": binary(torch.logical_xor),
    "Equal": binary(torch.eq), "Greater": binary(torch.gt), "GreaterOrEqual": binary(torch.ge),
    "Less": binary(torch.lt), "LessOrEqual": binary(torch.le), "BitwiseAnd": binary(torch.bitwise_and),
    "BitwiseOr": binary(torch.bitwise_or), "BitwiseXor": binary(torch.bitwise_xor),
    "Mod": Op(_modulo), "Pow": Op(_power), "BitShift": Op(_bit_shift), "IsInf": Op(_is_inf),
    "Max": folded(torch.maximum), "Min": folded(torch.minimum), "Sum": folded(torch.add), "Mean": Op(_mean),
    "Clip": Op(_clip), "Cast": Op(_cast), "CastLike": Op(_cast_like),
    "MatMul": Op(_matmul), "Gemm": Op(_gemm), "MatMulInteger": Op(_matmul_integer), "Einsum": Op(_einsum),
    "Gelu": Op(_gelu), "PRelu": Op(_prelu), "HardSigmoid": Op(_hard_sigmoid), "Selu": Op(_selu), "Celu": Op(_celu),
    "Shrink": Op(_shrink), "Where": Op(lambda a, c, x, y: torch.where(c, x, y)),
    "Elu": Op(lambda a, x: torch.where(x > 0, x, a.get("alpha", 1.0) * torch.expm1(torch.clamp(x, max=0)))),
    "LeakyRelu": Op(lambda a, x: F.leaky_relu(x, a.get("alpha", 0.01))),
    "ThresholdedRelu": Op(lambda a, x: torch.where(x > a.get("alpha", 1.0), x, torch.zeros_like(x))),
    "Swish": Op(lambda a, x: x * torch.sigmoid(a.get("alpha", 1.0) * x)),
    "com.microsoft::Gelu": Op(lambda a, x: F.gelu(x)),
    "com.microsoft::QuickGelu": Op(lambda a, x: x * torch.sigmoid(a.get("alpha", 1.702) * x)),
    "com.microsoft::BiasGelu": Op(lambda a, x, bias: F.gelu(x + bias)),
    "com.microsoft::FastGelu": Op(
        lambda a, x, bias=None: F.gelu(x if bias is None else x + bias, approximate="tanh")
    ),
}  # fmt: skip
