"""Padding of convolutions and pools: explicit, SAME_UPPER/SAME_LOWER, VALID; symmetric or not."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from .values import Attributes


def spatial(a: Attributes, name: str, rank: int, default: int = 1) -> list[int]:
    """A per-axis attribute, filled with its default."""
    return list(a.get(name) or [default] * rank)


def pads(a: Attributes, sizes: Any, kernel: list[int]) -> tuple[list[Any], list[Any]]:
    """What to add before and after each spatial axis of `sizes`."""
    rank, how = len(kernel), a.get("auto_pad", "NOTSET")
    if how in ("NOTSET", ""):
        both = spatial(a, "pads", 2 * rank, 0)
        return both[:rank], both[rank:]
    if how == "VALID":
        return [0] * rank, [0] * rank
    strides, dilations = spatial(a, "strides", rank), spatial(a, "dilations", rank)
    low, high = [], []
    for size, k, s, d in zip(sizes, kernel, strides, dilations):
        total = max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
        less, more = total // 2, total - total // 2
        low.append(less if how == "SAME_UPPER" else more)
        high.append(more if how == "SAME_UPPER" else less)
    return low, high


def padded(x: Tensor, low: list[Any], high: list[Any], value: float = 0.0) -> Tensor:
    """`x` with its trailing spatial axes padded."""
    flat = [p for pair in zip(reversed(low), reversed(high)) for p in pair]
    return F.pad(x, flat, value=value) if any(flat) else x


def fixed(a: Attributes, rank: int) -> list[int] | None:
    """Symmetric padding that doesn't depend on the input, or None."""
    if a.get("auto_pad", "NOTSET") in ("NOTSET", "", "VALID"):
        low, high = pads(a, (), [1] * rank)
        return low if low == high and all(p >= 0 for p in low) else None
    return None


def transposed_padding(a: Attributes, sizes: Any, kernel: list[int]) -> tuple[list[int], list[int], list[int]]:
    """Cut before, cut after and extra size of a transposed convolution."""
    rank = len(kernel)
    strides, dilations = spatial(a, "strides", rank), spatial(a, "dilations", rank)
    extra, wanted, how = spatial(a, "output_padding", rank, 0), a.get("output_shape"), a.get("auto_pad", "NOTSET")
    if wanted is None and how not in ("SAME_UPPER", "SAME_LOWER"):
        low, high = pads(a, sizes, kernel)
        return low, high, extra
    wanted = [s * size for s, size in zip(strides, sizes)] if wanted is None else list(wanted)[-rank:]
    low, high = [], []
    for i in range(rank):
        full = strides[i] * (sizes[i] - 1) + extra[i] + (kernel[i] - 1) * dilations[i] + 1
        total = max(full - wanted[i], 0)
        less, more = total // 2, total - total // 2
        low.append(less if how == "SAME_UPPER" else more)
        high.append(more if how == "SAME_UPPER" else less)
        extra[i] += max(wanted[i] - full, 0)
    return low, high, extra
