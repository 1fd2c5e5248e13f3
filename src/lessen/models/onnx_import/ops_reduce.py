"""Reductions, cumulative sums, arg-extremes, sorting, and the softmax family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .values import Attributes, Op, operand, scalar


def _reduction(fn: Callable[[Tensor, list[int], bool], Tensor]) -> Op:
    def run(a: Attributes, x: Tensor, *rest: Any) -> Tensor:
        axes = operand(a, (x, *rest), 1, "axes")
        if not axes and a.get("noop_with_empty_axes", 0):
            return fn(x.unsqueeze(0), [0], False)  # the element's own reduction: |x|, x², log x, ...
        keep = bool(a.get("keepdims", 1))
        return fn(x, sorted(i % max(x.dim(), 1) for i in axes) if axes else list(range(x.dim())), keep).to(x.dtype)

    return Op(run, (1,))


def _over(x: Tensor, axes: list[int], keep: bool, fn: Callable[[Tensor, int, bool], Tensor]) -> Tensor:
    """Reduce axis by axis, for what torch reduces over one axis only."""
    for axis in reversed(axes):
        x = fn(x, axis, keep)
    return x


def _sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.sum(axes, keepdim=keep) if axes else x


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if not axes:
        return x
    if not x.is_floating_point():  # integers are divided as integers
        count = 1
        for axis in axes:
            count *= x.shape[axis]
        return torch.div(x.sum(axes, keepdim=keep), count, rounding_mode="trunc")
    return x.mean(axes, keepdim=keep)


def _extreme(fn: Callable[..., Tensor], largest: bool) -> Callable[[Tensor, list[int], bool], Tensor]:
    def run(x: Tensor, axes: list[int], keep: bool) -> Tensor:
        if not axes:
            return x
        if x.numel() != 0:
            return fn(x, axes, keepdim=keep)
        shape = [s for i, s in enumerate(x.shape) if i not in axes] if not keep else [
            1 if i in axes else s for i, s in enumerate(x.shape)
        ]  # fmt: skip
        if x.is_floating_point():
            return x.new_full(shape, float("-inf") if largest else float("inf"))
        limits = (0, 1) if x.dtype is torch.bool else (torch.iinfo(x.dtype).min, torch.iinfo(x.dtype).max)
        return x.new_full(shape, limits[0] if largest else limits[1])

    return run


def _prod(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return _over(x, axes, keep, lambda t, i, k: t.prod(i, keepdim=k))


def _log_sum_exp(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.logsumexp(x.to(torch.float64) if not x.is_floating_point() else x, axes, keepdim=keep)


def _arg(fn: Callable[..., Tensor]) -> Op:
    def run(a: Attributes, x: Tensor) -> Tensor:
        axis, keep = a.get("axis", 0) % x.dim(), bool(a.get("keepdims", 1))
        if a.get("select_last_index", 0):
            return x.shape[axis] - 1 - fn(x.flip(axis), axis, keepdim=keep)
        if x.numel() == 0:
            return fn(x, axis, keepdim=keep)
        best = x.amax(axis, keepdim=True) if fn is torch.argmax else x.amin(axis, keepdim=True)
        first = (x == best).to(torch.uint8).argmax(axis, keepdim=keep)  # of equals, ONNX asks for the first
        return first

    return Op(run)


def _cumulative(fn: Callable[..., Tensor], neutral: int) -> Op:
    def run(a: Attributes, x: Tensor, axis: Any) -> Tensor:
        dim = int(scalar(axis)) % x.dim()
        x = x.flip(dim) if a.get("reverse", 0) else x
        y = fn(x, dim).to(x.dtype)
        if a.get("exclusive", 0):
            first = torch.full_like(y.narrow(dim, 0, 1), neutral)
            y = torch.cat([first, y.narrow(dim, 0, y.shape[dim] - 1)], dim)
        return y.flip(dim) if a.get("reverse", 0) else y

    return Op(run, (1,))


def _softmax(fn: Callable[..., Tensor]) -> Op:
    def run(a: Attributes, x: Tensor) -> Tensor:
        if a.opset >= 13:
            return fn(x, a.get("axis", -1))
        axis = a.get("axis", 1) % max(x.dim(), 1)  # old: everything from `axis` on is one row
        return fn(x, axis) if axis == x.dim() - 1 else fn(x.flatten(axis), axis).reshape(x.shape)

    return Op(run)


def _hardmax(x: Tensor, axis: int) -> Tensor:
    best = (x == x.amax(axis, keepdim=True)).to(torch.uint8).argmax(axis, keepdim=True)
    return torch.zeros_like(x).scatter(axis, best, 1.0)


def _top_k(a: Attributes, x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    k = operand(a, (x, *rest), 1, "k")
    k = k[0] if isinstance(k, list) else k
    axis, largest = a.get("axis", -1), bool(a.get("largest", 1))
    values, index = torch.sort(x, dim=axis, descending=largest, stable=True)  # ties: the lower index first
    return values.narrow(axis, 0, k), index.narrow(axis, 0, k)


def _unique(a: Attributes, x: Tensor) -> tuple[Tensor, ...]:
    axis, values = a.get("axis"), x
    if axis is None:
        values, axis = x.reshape(-1), 0
    found, inverse, counts = torch.unique(values, dim=axis, sorted=True, return_inverse=True, return_counts=True)
    spots = torch.arange(inverse.numel() - 1, -1, -1)
    first = torch.empty(counts.numel(), dtype=torch.int64).scatter_(0, inverse.reshape(-1).flip(0), spots)
    if not a.get("sorted", 1):
        order = torch.argsort(first)
        rank = torch.argsort(order)
        found, first, counts = found.index_select(axis, order), first[order], counts[order]
        inverse = rank[inverse]
    return found, first, inverse.reshape(-1), counts


OPS: dict[str, Op] = {
    "ReduceSum": _reduction(_sum), "ReduceMean": _reduction(_mean), "ReduceProd": _reduction(_prod),
    "ReduceMax": _reduction(_extreme(torch.amax, True)), "ReduceMin": _reduction(_extreme(torch.amin, False)),
    "ReduceL1": _reduction(lambda x, i, k: _sum(x.abs(), i, k)),
    "ReduceL2": _reduction(lambda x, i, k: _sum(x * x, i, k).to(torch.float32 if not x.is_floating_point()
                                                               else x.dtype).sqrt()),
    "ReduceSumSquare": _reduction(lambda x, i, k: _sum(x * x, i, k)),
    "ReduceLogSum": _reduction(lambda x, i, k: _sum(x, i, k).log()),
    "ReduceLogSumExp": _reduction(_log_sum_exp),
    "ArgMax": _arg(torch.argmax), "ArgMin": _arg(torch.argmin),
    "CumSum": _cumulative(torch.cumsum, 0), "CumProd": _cumulative(torch.cumprod, 1),
    "Softmax": _softmax(torch.softmax), "LogSoftmax": _softmax(F.log_softmax), "Hardmax": _softmax(_hardmax),
    "TopK": Op(_top_k, (1,)), "Unique": Op(_unique),
}  # fmt: skip
