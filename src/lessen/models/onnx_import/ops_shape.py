"""Operators that move, cut, join, repeat and make tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .values import HOST_LIMIT, Attributes, NotNative, Op, host, ints, operand, scalar, to_tensor, torch_dtype


def reshaped(shape: Any, sizes: list[Any], allow_zero: bool) -> list[Any]:
    """The sizes asked of a Reshape, with 0 meaning "as it was" unless `allow_zero`."""
    return [shape[i] if isinstance(s, int) and s == 0 and not allow_zero else s for i, s in enumerate(sizes)]


def _reshape(a: Attributes, x: Tensor, sizes: Any = None) -> Tensor:
    wanted = a.get("shape") if sizes is None else ints(sizes)
    return x.reshape(reshaped(x.shape, wanted, bool(a.get("allowzero", 0))))


def _flatten(a: Attributes, x: Tensor) -> Tensor:
    axis = a.get("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    if axis == 0:
        return x.reshape(1, -1)
    if axis == 1 and x.dim() > 1 and x.numel() != 0:
        return x.flatten(1)  # keeps a symbolic batch size plain
    rows = 1
    for size in x.shape[:axis]:
        rows = rows * size
    return x.reshape(rows, -1) if rows != 0 else x.reshape(rows, int(np.prod(x.shape[axis:])))


def _squeeze(a: Attributes, x: Tensor, *rest: Any) -> Tensor:
    axes = operand(a, (x, *rest), 1, "axes")
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def _unsqueeze(a: Attributes, x: Tensor, *rest: Any) -> Tensor:
    axes = operand(a, (x, *rest), 1, "axes")
    rank = x.dim() + len(axes)
    for axis in sorted(i % rank for i in axes):
        x = x.unsqueeze(axis)
    return x


def _transpose(a: Attributes, x: Tensor) -> Tensor:
    return x.permute(a.get("perm") or list(range(x.dim()))[::-1])


def _expand(a: Attributes, x: Tensor, sizes: Any) -> Tensor:
    wanted = ints(sizes)
    rank = max(x.dim(), len(wanted))
    old = [1] * (rank - x.dim()) + list(x.shape)
    wanted = [1] * (rank - len(wanted)) + wanted
    return x.reshape(old).expand([o if isinstance(w, int) and w == 1 else w for o, w in zip(old, wanted)])


def _concat(a: Attributes, *xs: Tensor) -> Tensor:
    return torch.cat(xs, a.get("axis", 1))


def _split(a: Attributes, x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    axis, sizes = a.get("axis", 0), operand(a, (x, *rest), 1, "split")
    if sizes is None:
        parts = a.get("num_outputs", a.outputs)
        step = -(-x.shape[axis] // parts)
        sizes = [step] * (parts - 1) + [x.shape[axis] - step * (parts - 1)]
    return torch.split(x, sizes, axis)


def _slice(a: Attributes, x: Tensor, *rest: Any) -> Tensor:
    starts, ends = (operand(a, (x, *rest), 1 + i, n) for i, n in enumerate(("starts", "ends")))
    axes = operand(a, (x, *rest), 3, "axes") or list(range(len(starts)))
    steps = operand(a, (x, *rest), 4, "", [1] * len(starts))
    for start, end, axis, step in zip(starts, ends, axes, steps):
        x = _sliced(x, axis % x.dim(), start, end, step)
    return x


def _sliced(x: Tensor, axis: int, start: Any, end: Any, step: int) -> Tensor:
    if step > 0:
        whole: list[Any] = [slice(None)] * x.dim()
        whole[axis] = slice(start, None if isinstance(end, int) and end >= 2**31 - 1 else end, step)
        return x[tuple(whole)]
    picks = list(range(int(x.shape[axis])))[slice(start, None if end <= -int(x.shape[axis]) - 1 else end, step)]
    return x.index_select(axis, torch.tensor(picks, dtype=torch.int64, device=x.device))


def positive(index: Tensor, size: Any) -> Tensor:
    """Indices counted from the front."""
    index = index.to(torch.int64)
    return torch.where(index < 0, index + size, index)


def _gather(a: Attributes, x: Tensor, index: Any) -> Tensor:
    axis = a.get("axis", 0) % x.dim()
    if isinstance(index, np.ndarray) and index.ndim == 0:
        return x.select(axis, index.item())
    index = to_tensor(index, x.device)
    picked = x.index_select(axis, positive(index, x.shape[axis]).reshape(-1))
    return picked.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _gather_elements(a: Attributes, x: Tensor, index: Tensor) -> Tensor:
    axis = a.get("axis", 0)
    return torch.gather(x, axis, positive(index, x.shape[axis]))


def _nd_index(index: Tensor, shape: Any) -> tuple[Tensor, ...]:
    return tuple(positive(index[..., i], shape[i]) for i in range(index.shape[-1]))


def _gather_nd(a: Attributes, x: Tensor, index: Tensor) -> Tensor:
    batch = a.get("batch_dims", 0)
    if not batch:
        return x[_nd_index(index, x.shape)]
    flat = x.reshape(-1, *x.shape[batch:])
    rows = index.reshape(flat.shape[0], *index.shape[batch:])
    picked = torch.stack([f[_nd_index(r, f.shape)] for f, r in zip(flat, rows)])
    return picked.reshape(*x.shape[:batch], *picked.shape[1:])


_REDUCE = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _scatter_elements(a: Attributes, x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
    axis, how = a.get("axis", 0), a.get("reduction", "none")
    index = positive(index, x.shape[axis])
    return x.scatter(axis, index, updates) if how == "none" else x.scatter_reduce(axis, index, updates, _REDUCE[how])


def _scatter_nd(a: Attributes, x: Tensor, index: Tensor, updates: Tensor) -> Tensor:
    how = a.get("reduction", "none")
    if how in ("none", "add"):
        return x.index_put(_nd_index(index, x.shape), updates, accumulate=how == "add")
    depth = index.shape[-1]
    flat = x.reshape(-1, *x.shape[depth:])
    row = torch.zeros(index.shape[:-1], dtype=torch.int64, device=x.device)
    for i, part in enumerate(_nd_index(index, x.shape)):
        row = row * x.shape[i] + part
    return flat.index_reduce(0, row.reshape(-1), updates.reshape(-1, *flat.shape[1:]), _REDUCE[how]).reshape(x.shape)


def _tile(a: Attributes, x: Tensor, repeats: Any, axis: Any = None) -> Tensor:
    if axis is not None:  # opset 1
        counts = [1] * x.dim()
        counts[scalar(axis)] = scalar(repeats)
        return x.repeat(counts)
    return x.repeat(ints(repeats))


def _shape(a: Attributes, x: Any) -> np.ndarray:
    sizes = list(x.shape)
    end = a.get("end")
    return host(sizes[a.get("start", 0) : len(sizes) if end is None else end])


def _size(a: Attributes, x: Any) -> np.ndarray:
    total: Any = 1
    for size in x.shape:
        total = total * size
    return host([total], ())


def _constant_of_shape(a: Attributes, sizes: Any) -> Any:
    value = a.get("value")
    fill = np.zeros(1, np.float32) if value is None else np.asarray(value)
    shape = ints(sizes)
    small = all(isinstance(s, int) for s in shape) and np.prod(shape, dtype=np.int64) <= HOST_LIMIT
    if small and fill.dtype.kind in "ib":
        return np.full(shape, fill.reshape(-1)[0], fill.dtype)
    one = to_tensor(fill).reshape(-1)[0]
    return torch.full(shape, one.item(), dtype=one.dtype)


def _range(a: Attributes, start: Any, limit: Any, delta: Any) -> Any:
    like = next((v for v in (start, limit, delta) if isinstance(v, Tensor) or v.dtype != object), None)
    first, last, step = scalar(start), scalar(limit), scalar(delta)
    kind = torch.int64 if like is None else to_tensor(like).dtype
    return torch.arange(first, last, step, dtype=kind)


def _constant(a: Attributes) -> Any:
    for name, kind in (("value_float", np.float32), ("value_int", np.int64)):
        if (value := a.get(name)) is not None:
            return np.array(value, kind)
        if (value := a.get(name + "s")) is not None:
            return np.array(value, kind)
    value = a.get("value")
    if value is None:
        raise NotNative("a constant of strings or a sparse one")
    array = np.asarray(value)
    return array if array.size <= HOST_LIMIT else to_tensor(array)


def _pad(a: Attributes, x: Tensor, *rest: Any) -> Tensor:
    pads = operand(a, (x, *rest), 1, "pads") or a.get("paddings")
    value = scalar(rest[1]) if len(rest) > 1 and rest[1] is not None else a.get("value", 0.0)
    axes = ints(rest[2]) if len(rest) > 2 and rest[2] is not None else list(range(x.dim()))
    mode, count = a.get("mode", "constant"), len(axes)
    ends = {axis % x.dim(): (pads[i], pads[i + count]) for i, axis in enumerate(axes)}
    if mode == "constant":
        flat = [p for axis in reversed(range(x.dim())) for p in ends.get(axis, (0, 0))]
        return F.pad(x, flat, value=value)
    for axis, (low, high) in ends.items():
        if low or high:
            x = _mirrored(x, axis, low, high, mode)
    return x


def _mirrored(x: Tensor, axis: int, low: int, high: int, mode: str) -> Tensor:
    """Pad one axis by picking existing positions; works for every rank and every mode."""
    size = x.shape[axis]
    where = torch.arange(-low, size + high, device=x.device)
    if mode == "edge":
        where = where.clamp(0, size - 1)
    elif mode == "wrap":
        where = where % size
    else:
        period = max(2 * (size - 1), 1)
        where = where % period
        where = torch.where(where >= size, period - where, where)
    return x.index_select(axis, where)


def _one_hot(a: Attributes, index: Tensor, depth: Any, values: Any) -> Tensor:
    count, axis = int(scalar(depth)), a.get("axis", -1)
    off, on = to_tensor(values, index.device).reshape(-1)
    hot = positive(index, count).unsqueeze(-1) == torch.arange(count, device=index.device)
    return torch.where(hot, on, off).movedim(-1, axis)


def _depth_to_space(a: Attributes, x: Tensor) -> Tensor:
    b, (n, c, h, w) = a.get("blocksize"), x.shape
    if a.get("mode", "DCR") == "CRD":
        return x.reshape(n, c // b**2, b, b, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, c // b**2, h * b, w * b)
    return x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // b**2, h * b, w * b)


def _space_to_depth(a: Attributes, x: Tensor) -> Tensor:
    b, (n, c, h, w) = a.get("blocksize"), x.shape
    order = (0, 1, 3, 5, 2, 4) if a.get("mode", "DCR") == "CRD" else (0, 3, 5, 1, 2, 4)
    return x.reshape(n, c, h // b, b, w // b, b).permute(order).reshape(n, c * b * b, h // b, w // b)


def _trilu(a: Attributes, x: Tensor, k: Any = None) -> Tensor:
    diagonal = 0 if k is None else int(scalar(k))
    return torch.triu(x, diagonal) if a.get("upper", 1) else torch.tril(x, diagonal)


def _eye_like(a: Attributes, x: Tensor) -> Tensor:
    kind = torch_dtype(a.get("dtype")) if a.get("dtype") else x.dtype
    rows = torch.arange(x.shape[0], device=x.device).unsqueeze(1) + a.get("k", 0)
    return (rows == torch.arange(x.shape[1], device=x.device)).to(kind)


def _reverse_sequence(a: Attributes, x: Tensor, lengths: Tensor) -> Tensor:
    time, batch = a.get("time_axis", 0), a.get("batch_axis", 1)
    x = x.movedim((batch, time), (0, 1))
    steps = torch.arange(x.shape[1], device=x.device).expand(x.shape[0], -1)
    last = lengths.unsqueeze(1)
    steps = torch.where(steps < last, last - 1 - steps, steps)
    picked = torch.gather(x, 1, steps.reshape(*steps.shape, *(1,) * (x.dim() - 2)).expand_as(x))
    return picked.movedim((0, 1), (batch, time))


def _compress(a: Attributes, x: Tensor, condition: Tensor) -> Tensor:
    axis = a.get("axis")
    x = x.reshape(-1) if axis is None else x
    return x.index_select(axis or 0, torch.nonzero(condition).reshape(-1))


def _center_crop_pad(a: Attributes, x: Tensor, sizes: Any) -> Tensor:
    for axis, size in zip(a.get("axes") or range(x.dim()), ints(sizes)):
        axis, extra = axis % x.dim(), size - x.shape[axis]
        if extra < 0:
            x = x.narrow(axis, -extra // 2, size)
        elif extra > 0:
            before = (0, 0) * (x.dim() - 1 - axis)
            x = F.pad(x, (*before, extra // 2, extra - extra // 2))
    return x


OPS: dict[str, Op] = {
    "Reshape": Op(_reshape, (1,)), "Flatten": Op(_flatten), "Squeeze": Op(_squeeze, (1,)),
    "Unsqueeze": Op(_unsqueeze, (1,)), "Transpose": Op(_transpose), "Expand": Op(_expand, (1,)),
    "Concat": Op(_concat), "Split": Op(_split, (1,)), "Slice": Op(_slice, (1, 2, 3, 4)),
    "Gather": Op(_gather, (1,)), "GatherElements": Op(_gather_elements), "GatherND": Op(_gather_nd),
    "Scatter": Op(_scatter_elements), "ScatterElements": Op(_scatter_elements), "ScatterND": Op(_scatter_nd),
    "Tile": Op(_tile, (1, 2)), "Shape": Op(_shape), "Size": Op(_size), "Constant": Op(_constant),
    "ConstantOfShape": Op(_constant_of_shape, (0,)), "Range": Op(_range, (0, 1, 2)), "Pad": Op(_pad, (1, 2, 3)),
    "OneHot": Op(_one_hot, (1,)), "DepthToSpace": Op(_depth_to_space), "SpaceToDepth": Op(_space_to_depth),
    "Trilu": Op(_trilu, (1,)), "EyeLike": Op(_eye_like), "ReverseSequence": Op(_reverse_sequence),
    "Compress": Op(_compress), "CenterCropPad": Op(_center_crop_pad, (1,)),
    "NonZero": Op(lambda a, x: torch.nonzero(x).t()),
}  # fmt: skip
