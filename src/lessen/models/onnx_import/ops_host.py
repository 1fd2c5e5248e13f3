"""Shape arithmetic on host values (numpy), for nodes all of whose inputs are on the host."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from .ops_shape import reshaped
from .values import HOST_LIMIT, Attributes, NotHost, host, host_object, ints, operand, scalar

Host = Callable[..., Any]


def _divide(a: Attributes, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    if x.dtype == object or y.dtype == object:
        return x // y if not _floating(x, y) else x / y
    return np.trunc(x / y).astype(x.dtype) if x.dtype.kind in "iu" else x / y


def _floating(*xs: np.ndarray) -> bool:
    return any(isinstance(i, float) or type(i).__name__ == "SymFloat" for x in xs for i in x.reshape(-1).tolist())


def _gather(a: Attributes, x: np.ndarray, index: np.ndarray) -> np.ndarray:
    return np.asarray(np.take(x, index, axis=a.get("axis", 0)), x.dtype)


def _concat(a: Attributes, *xs: np.ndarray) -> np.ndarray:
    return np.concatenate(xs, axis=a.get("axis", 0))


def _slice(a: Attributes, x: np.ndarray, *rest: Any) -> np.ndarray:
    starts, ends = (operand(a, (x, *rest), 1 + i, n) for i, n in enumerate(("starts", "ends")))
    axes = operand(a, (x, *rest), 3, "axes") or list(range(len(starts)))
    steps = operand(a, (x, *rest), 4, "", [1] * len(starts))
    if any(isinstance(i, torch.SymInt) for i in (*starts, *ends)):
        raise NotHost
    where: list[slice] = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps):
        where[axis] = slice(start, None if step < 0 and end < -x.shape[axis] else end, step)
    return x[tuple(where)]


def _squeeze(a: Attributes, x: np.ndarray, *rest: Any) -> np.ndarray:
    axes = operand(a, (x, *rest), 1, "axes")
    return np.squeeze(x, None if axes is None else tuple(axes))


def _unsqueeze(a: Attributes, x: np.ndarray, *rest: Any) -> np.ndarray:
    return np.expand_dims(x, tuple(operand(a, (x, *rest), 1, "axes")))


def _cast(a: Attributes, x: np.ndarray) -> np.ndarray:
    kind = ir.DataType(a.get("to")).numpy()
    if x.dtype != object:
        return x.astype(kind)
    if kind.kind != "f" and not _floating(x):
        return x
    to = torch.sym_float if kind.kind == "f" else torch.sym_int
    return host_object([to(i) for i in x.reshape(-1).tolist()], x.shape)


def _reshape(a: Attributes, x: np.ndarray, sizes: Any = None) -> np.ndarray:
    wanted = a.get("shape") if sizes is None else ints(sizes)
    return x.reshape(reshaped(x.shape, wanted, bool(a.get("allowzero", 0))))


def _reduce(fn: Any) -> Host:
    def run(a: Attributes, x: np.ndarray, *rest: Any) -> np.ndarray:
        axes = operand(a, (x, *rest), 1, "axes")
        if not axes and a.get("noop_with_empty_axes", 0):
            return x
        return np.asarray(fn.reduce(x, axis=tuple(axes) if axes else None, keepdims=bool(a.get("keepdims", 1))))

    return run


def _range(a: Attributes, start: Any, limit: Any, delta: Any) -> Any:
    if any(v.dtype == object for v in (start, limit, delta)) or abs(scalar(limit) - scalar(start)) > 64:
        raise NotHost
    return np.arange(scalar(start), scalar(limit), scalar(delta)).astype(start.dtype)


def _split(a: Attributes, x: np.ndarray, *rest: Any) -> tuple[np.ndarray, ...]:
    axis, sizes = a.get("axis", 0), operand(a, (x, *rest), 1, "split")
    if sizes is None:
        parts = a.get("num_outputs", a.outputs)
        sizes = [-(-x.shape[axis] // parts)] * (parts - 1)
    else:
        sizes = sizes[:-1]
    return tuple(np.split(x, np.cumsum(sizes).astype(int), axis))


def _expand(a: Attributes, x: np.ndarray, sizes: Any) -> np.ndarray:
    wanted = ints(sizes)
    if not all(isinstance(w, int) for w in wanted) or x.size * np.prod(wanted, dtype=np.float64) > HOST_LIMIT:
        raise NotHost
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(wanted)))


def _shape(a: Attributes, x: np.ndarray) -> np.ndarray:
    end = a.get("end")
    return host(list(x.shape)[a.get("start", 0) : x.ndim if end is None else end])


def _where(a: Attributes, c: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.where(c.astype(bool), x, y)


def _plain(fn: Any) -> Host:
    return lambda a, *xs: np.asarray(fn(*xs))


def _kept(fn: Any) -> Host:
    return lambda a, *xs: np.asarray(reduce(fn, xs), xs[0].dtype if all(x.dtype != object for x in xs) else object)


def _sizes_of(name: str) -> Host:
    def run(a: Attributes, x: np.ndarray) -> np.ndarray:
        if x.dtype == object:
            return host_object([torch.sym_int(i) for i in x.reshape(-1).tolist()], x.shape)
        return np.asarray(getattr(np, name)(x), x.dtype)

    return run


HOST_OPS: dict[str, Host] = {
    "Add": _kept(np.add), "Sub": _kept(np.subtract), "Mul": _kept(np.multiply), "Div": _divide,
    "Neg": _plain(np.negative), "Max": _kept(np.maximum), "Min": _kept(np.minimum), "Abs": _plain(np.absolute),
    "Mod": lambda a, x, y: np.asarray(np.fmod(x, y) if a.get("fmod", 0) else np.mod(x, y)),
    "Floor": _sizes_of("floor"), "Ceil": lambda a, x: np.asarray(np.ceil(x), x.dtype),
    "Equal": _plain(np.equal), "Less": _plain(np.less), "Greater": _plain(np.greater),
    "LessOrEqual": _plain(np.less_equal), "GreaterOrEqual": _plain(np.greater_equal),
    "And": _plain(np.logical_and), "Or": _plain(np.logical_or), "Not": _plain(np.logical_not), "Where": _where,
    "Identity": lambda a, x: x, "Cast": _cast, "CastLike": lambda a, x, y: x.astype(y.dtype),
    "Gather": _gather, "Concat": _concat, "Slice": _slice, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze,
    "Reshape": _reshape, "Transpose": lambda a, x: np.transpose(x, a.get("perm")), "Expand": _expand,
    "Shape": _shape, "Size": lambda a, x: np.array(x.size, np.int64), "Split": _split, "Range": _range,
    "ReduceProd": _reduce(np.multiply), "ReduceSum": _reduce(np.add), "ReduceMax": _reduce(np.maximum),
    "ReduceMin": _reduce(np.minimum),
}  # fmt: skip
