"""Convolutions, pools, normalizations and quantization, as functions of all their operands."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .ops_math import centred
from .values import Attributes, NotNative, Op, ints, to_tensor
from .windows import padded, pads, spatial, transposed_padding

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def conv(a: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    kernel = list(weight.shape[2:])
    rank = len(kernel)
    if rank not in _CONV:
        raise NotNative(f"{rank}-dimensional convolution")
    low, high = pads(a, x.shape[2:], kernel)
    same = low == high
    x = x if same else padded(x, low, high)
    return _CONV[rank](x, weight, bias, spatial(a, "strides", rank), low if same else 0,
                       spatial(a, "dilations", rank), a.get("group", 1))  # fmt: skip


def conv_transpose(a: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    kernel = list(weight.shape[2:])
    rank = len(kernel)
    if rank not in _CONV:
        raise NotNative(f"{rank}-dimensional convolution")
    low, high, extra = transposed_padding(a, x.shape[2:], kernel)
    strides, dilations = spatial(a, "strides", rank), spatial(a, "dilations", rank)
    allowed = all(e < max(s, d) for e, s, d in zip(extra, strides, dilations))
    y = _CONV_TRANSPOSE[rank](x, weight, bias, strides, 0, extra if allowed else 0, a.get("group", 1), dilations)
    if not allowed:
        shift = 0.0 if bias is None else bias.reshape(-1, *(1,) * rank)
        y = padded(y - shift, [0] * rank, extra) + shift
    return cropped(y, low, high)


def cropped(y: Tensor, low: list[int], high: list[int]) -> Tensor:
    """`y` less its borders on the trailing axes."""
    for i, (start, end) in enumerate(zip(low, high)):
        if start or end:
            y = y.narrow(2 + i, start, y.shape[2 + i] - start - end)
    return y


def _conv_integer(a: Attributes, x: Tensor, w: Tensor, zx: Any = None, zw: Any = None) -> Tensor:
    return conv(a, centred(x, zx, -1), centred(w, zw, -(w.dim()))).to(torch.int32)


def _pool_ends(a: Attributes, x: Tensor, kernel: list[int]) -> tuple[list[Any], list[Any], list[Any]]:
    """Padding of a pool, and how much more its last, partial window needs (ceil_mode)."""
    rank = len(kernel)
    low, high = pads(a, x.shape[2:], kernel)
    extra = [0] * rank
    if a.get("ceil_mode", 0):
        for i, (s, d) in enumerate(zip(spatial(a, "strides", rank), spatial(a, "dilations", rank))):
            span = x.shape[2 + i] + low[i] + high[i] - (kernel[i] - 1) * d - 1
            count = -(-span // s)
            if count * s >= x.shape[2 + i] + low[i]:  # the last window would begin in the padding
                count -= 1
            extra[i] = max(count * s - span, 0)
    return low, high, extra


def _max_pool(a: Attributes, x: Tensor) -> Any:
    kernel = list(a.get("kernel_shape"))
    rank = len(kernel)
    if rank not in _MAX_POOL:
        raise NotNative(f"{rank}-dimensional pool")
    strides, dilations = spatial(a, "strides", rank), spatial(a, "dilations", rank)
    low, high, extra = _pool_ends(a, x, kernel)
    even = low == high and not any(extra) and all(2 * p <= k for p, k in zip(low, kernel))
    if even and a.outputs == 1 and x.is_floating_point():
        return _MAX_POOL[rank](x, kernel, strides, low, dilations)
    floor = -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
    wide = padded(x, low, [h + e for h, e in zip(high, extra)], floor)
    wide = wide if x.is_floating_point() else wide.to(torch.float64)
    values, where = _MAX_POOL[rank](wide, kernel, strides, 0, dilations, return_indices=True)
    return values.to(x.dtype) if a.outputs == 1 else (values.to(x.dtype), _unpadded(a, where, x, wide, low))


def _unpadded(a: Attributes, where: Tensor, x: Tensor, wide: Tensor, low: list[int]) -> Tensor:
    """Indices into the padded planes as indices into the whole unpadded tensor."""
    places, rest = [], where
    for size, start in zip(reversed(wide.shape[2:]), reversed(low)):
        places.append(rest % size - start)
        rest = rest // size
    places = places[::-1]
    order = range(len(places))
    flat, step = torch.zeros_like(where), 1
    for i in order if a.get("storage_order", 0) else reversed(order):
        flat = flat + places[i] * step
        step = step * x.shape[2 + i]
    planes = torch.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], *(1,) * len(places))
    return flat + planes * step


def _average_pool(a: Attributes, x: Tensor) -> Tensor:
    kernel = list(a.get("kernel_shape"))
    rank = len(kernel)
    if rank not in _AVERAGE_POOL:
        raise NotNative(f"{rank}-dimensional pool")
    strides, dilations = spatial(a, "strides", rank), spatial(a, "dilations", rank)
    low, high, extra = _pool_ends(a, x, kernel)
    inside = bool(a.get("count_include_pad", 0))
    plain = low == high and not any(extra) and all(2 * p <= k for p, k in zip(low, kernel))
    if plain and dilations == [1] * rank:
        return _AVERAGE_POOL[rank](x, kernel, strides, low, False, inside)
    ones = torch.ones_like(x[:1, :1])
    if inside:
        x, ones = padded(x, low, high), padded(ones, low, high, 1.0)
        low, high = [0] * rank, [0] * rank
    ends = [h + e for h, e in zip(high, extra)]
    return _window_sum(padded(x, low, ends), kernel, strides, dilations) / _window_sum(
        padded(ones, low, ends), kernel, strides, dilations
    )


def _window_sum(x: Tensor, kernel: list[int], strides: list[int], dilations: list[int]) -> Tensor:
    flat = x.reshape(-1, 1, *x.shape[2:])
    summed = _CONV[len(kernel)](flat, x.new_ones(1, 1, *kernel), None, strides, 0, dilations)
    return summed.reshape(*x.shape[:2], *summed.shape[2:])


def _lp_pool(a: Attributes, x: Tensor) -> Tensor:
    kernel, p = list(a.get("kernel_shape")), a.get("p", 2)
    low, high, extra = _pool_ends(a, x, kernel)
    strides, dilations = spatial(a, "strides", len(kernel)), spatial(a, "dilations", len(kernel))
    wide = padded(x.abs() ** p, low, [h + e for h, e in zip(high, extra)])
    return _window_sum(wide, kernel, strides, dilations) ** (1.0 / p)


def _max_unpool(a: Attributes, x: Tensor, index: Tensor, sizes: Any = None) -> Tensor:
    kernel = list(a.get("kernel_shape"))
    strides, both = spatial(a, "strides", len(kernel)), spatial(a, "pads", 2 * len(kernel), 0)
    shape = [(n - 1) * s + k - both[i] - both[i + len(kernel)]
             for i, (n, s, k) in enumerate(zip(x.shape[2:], strides, kernel))]  # fmt: skip
    y = x.new_zeros(math.prod([*x.shape[:2], *shape])).scatter(0, index.reshape(-1), x.reshape(-1))
    y = y.reshape(*x.shape[:2], *shape)
    return y if sizes is None else padded(y, [0] * len(kernel), [w - s for w, s in zip(ints(sizes)[2:], shape)])


def _col2im(a: Attributes, x: Tensor, sizes: Any, block: Any) -> Tensor:
    kernel = ints(block)
    both = spatial(a, "pads", 2 * len(kernel), 0)
    if len(kernel) != 2 or both[:2] != both[2:]:
        raise NotNative("Col2Im of other than two axes or with lopsided pads")
    size, step, stretch = tuple(ints(sizes)), tuple(spatial(a, "strides", 2)), tuple(spatial(a, "dilations", 2))
    return F.fold(x, size, tuple(kernel), stretch, tuple(both[:2]), step)


def _global(fn: Any) -> Op:
    return Op(lambda a, x: fn(x, list(range(2, x.dim()))))


def _batch_norm(a: Attributes, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Any:
    if a.get("spatial", 1) == 0:
        raise NotNative("BatchNormalization with spatial=0")
    epsilon, momentum = a.get("epsilon", 1e-5), a.get("momentum", 0.9)
    if a.get("training_mode", 0):
        axes = [i for i in range(x.dim()) if i != 1]
        now_mean, now_var = x.mean(axes), x.var(axes, unbiased=False)
        y = F.batch_norm(x, now_mean, now_var, scale, bias, False, 0.0, epsilon)
        return (y, mean * momentum + now_mean * (1 - momentum), var * momentum + now_var * (1 - momentum))[: a.outputs]
    shape = (1, -1, *(1,) * (x.dim() - 2)) if x.dim() > 1 else (-1,)
    factor = scale / torch.sqrt(var + epsilon)
    return x * factor.reshape(shape) + (bias - mean * factor).reshape(shape)


def _layer_norm(a: Attributes, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Any:
    axis, epsilon = a.get("axis", -1) % x.dim(), a.get("epsilon", 1e-5)
    if a.outputs == 1 and list(scale.shape) == list(x.shape[axis:]):
        return F.layer_norm(x, x.shape[axis:], scale, bias, epsilon)
    axes = list(range(axis, x.dim()))
    wide = x.float()
    mean = wide.mean(axes, keepdim=True)
    inverse = torch.rsqrt(wide.var(axes, unbiased=False, keepdim=True) + epsilon)
    y = ((wide - mean) * inverse).to(x.dtype) * scale
    return (y if bias is None else y + bias, mean, inverse)[: a.outputs]


def _rms_norm(a: Attributes, x: Tensor, scale: Tensor) -> Tensor:
    axes = list(range(a.get("axis", -1) % x.dim(), x.dim()))
    wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    root = torch.rsqrt((wide * wide).mean(axes, keepdim=True) + a.get("epsilon", 1e-5))
    return (wide * root).to(x.dtype) * scale


def _instance_norm(a: Attributes, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=bias, eps=a.get("epsilon", 1e-5))


def _group_norm(a: Attributes, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups = a.get("num_groups")
    if a.opset < 21:  # one scale a group, not a channel
        scale, bias = (t.repeat_interleave(x.shape[1] // groups) for t in (scale, bias))
    return F.group_norm(x, groups, scale, bias, a.get("epsilon", 1e-5))


def _lrn(a: Attributes, x: Tensor) -> Tensor:
    size = a.get("size")
    square = padded((x * x).movedim(1, -1), [(size - 1) // 2], [size // 2])
    summed = square.unfold(-1, size, 1).sum(-1).movedim(-1, 1)
    return x / (a.get("bias", 1.0) + a.get("alpha", 1e-4) / size * summed) ** a.get("beta", 0.75)


def _lp_norm(a: Attributes, x: Tensor) -> Tensor:
    size = torch.linalg.vector_norm(x, a.get("p", 2), a.get("axis", -1), keepdim=True)
    return torch.where(size == 0, torch.zeros_like(x), x / size)


def _mean_variance(a: Attributes, x: Tensor) -> Tensor:
    axes = list(a.get("axes") or (0, 2, 3))
    x = x - x.mean(axes, keepdim=True)
    return x / (x.var(axes, unbiased=False, keepdim=True).sqrt() + 1e-9)


def _dropout(a: Attributes, x: Tensor, ratio: Any = None, training: Any = None) -> Any:
    if training is not None and bool(to_tensor(training).any()):
        raise NotNative("Dropout in training mode")
    return x if a.outputs == 1 else (x, torch.ones_like(x, dtype=torch.bool if a.opset >= 10 else x.dtype))


OPS: dict[str, Op] = {
    "Conv": Op(conv), "ConvTranspose": Op(conv_transpose), "ConvInteger": Op(_conv_integer),
    "MaxPool": Op(_max_pool), "AveragePool": Op(_average_pool), "LpPool": Op(_lp_pool),
    "GlobalAveragePool": _global(lambda x, i: x.mean(i, keepdim=True)),
    "GlobalMaxPool": _global(lambda x, i: x.amax(i, keepdim=True)),
    "BatchNormalization": Op(_batch_norm), "LayerNormalization": Op(_layer_norm), "RMSNormalization": Op(_rms_norm),
    "InstanceNormalization": Op(_instance_norm), "GroupNormalization": Op(_group_norm), "LRN": Op(_lrn),
    "LpNormalization": Op(_lp_norm), "MeanVarianceNormalization": Op(_mean_variance), "Dropout": Op(_dropout, (1, 2)),
    "MaxUnpool": Op(_max_unpool, (2,)), "Col2Im": Op(_col2im, (1, 2)),
}  # fmt: skip
