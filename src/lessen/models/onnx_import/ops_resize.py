"""Resize, Upsample, GridSample, AffineGrid, Fourier transforms."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .values import Attributes, NotNative, Op, ints, scalar

_TORCH_MODES = {3: "linear", 4: "bilinear", 5: "trilinear"}


def _resize(a: Attributes, x: Tensor, *rest: Any) -> Tensor:
    roi, scales, sizes = (None, *rest, None, None)[:3] if a.opset < 11 else (*rest, None, None, None)[:3]
    scales, sizes = (None if v is None or not ints(v) else ints(v) for v in (scales, sizes))
    scales = a.get("scales") if scales is None else scales
    axes = [i % x.dim() for i in a.get("axes") or range(x.dim())]
    old = [x.shape[i] for i in axes]
    if sizes is not None:
        scales, sizes = _kept_aspect(a, old, sizes)
    else:
        sizes = [torch.sym_int(math.floor(o * s)) if isinstance(o, int) else torch.sym_int(o * s)
                 for o, s in zip(old, scales)]  # fmt: skip
    windows = _windows(roi, len(axes))
    todo = {axis: (sizes[i], scales[i], windows[i]) for i, axis in enumerate(axes) if _changes(a, scales[i])}
    quick = _quick(a, x, todo)
    if quick is not None:
        return quick
    y = x if x.is_floating_point() or _mode(a) == "nearest" else x.float()
    for axis, (size, scale, window) in todo.items():
        y = _resized(a, y, axis, size, scale, window)
    return y if y.dtype is x.dtype else y.to(x.dtype)


def _mode(a: Attributes) -> str:
    return a.get("mode", "nearest")


def _place(a: Attributes) -> str:
    return a.get("coordinate_transformation_mode", "half_pixel" if a.opset >= 11 else "asymmetric")


def _changes(a: Attributes, scale: Any) -> bool:
    return not (isinstance(scale, (int, float)) and scale == 1) or _place(a) == "tf_crop_and_resize"


def _windows(roi: Any, count: int) -> list[tuple[float, float]]:
    values = [] if roi is None else ints(roi)
    return [(values[i], values[count + i]) if len(values) == 2 * count else (0.0, 1.0) for i in range(count)]


def _kept_aspect(a: Attributes, old: list[Any], sizes: list[Any]) -> tuple[list[Any], list[Any]]:
    scales = [s / o for s, o in zip(sizes, old)]
    policy = a.get("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return scales, sizes
    scale = min(scales) if policy == "not_larger" else max(scales)
    return [scale] * len(old), [math.floor(scale * o + 0.5) for o in old]


def _quick(a: Attributes, x: Tensor, todo: dict[int, Any]) -> Tensor | None:
    """torch's own interpolation, for the settings in which it means the same."""
    spatial = list(range(2, x.dim()))
    if sorted(todo) != spatial or x.dim() not in _TORCH_MODES or not x.is_floating_point() or a.get("antialias", 0):
        return None
    sizes, scales = [todo[i][0] for i in spatial], [todo[i][1] for i in spatial]
    place, mode = _place(a), _mode(a)
    if mode == "nearest":
        whole = all(isinstance(s, (int, float)) and s >= 1 and float(s).is_integer() for s in scales)
        same = {"asymmetric": "floor", "half_pixel": "round_prefer_floor"}.get(place)
        if not whole or _nearest_mode(a) != same:
            return None
        return F.interpolate(x, scale_factor=[float(s) for s in scales], mode="nearest")
    exact = all(isinstance(v, int) for v in (*sizes, *x.shape[2:])) and all(
        s == o * k for s, o, k in zip(sizes, x.shape[2:], scales)
    )
    if mode != "linear" or place not in ("half_pixel", "pytorch_half_pixel", "align_corners") or not exact:
        return None
    if place == "pytorch_half_pixel" and 1 in sizes:
        return None
    return F.interpolate(x, size=sizes, mode=_TORCH_MODES[x.dim()], align_corners=place == "align_corners")


def _coordinates(a: Attributes, size: Any, old: Any, scale: Any, window: tuple[float, float], device: Any) -> Tensor:
    """Where each new position lies on the old axis, float64 [size]."""
    i, place = torch.arange(size, dtype=torch.float64, device=device), _place(a)
    if place == "asymmetric":
        return i / scale
    if place == "align_corners":
        whole = scale * old
        return i * 0 if whole == 1 else i * (old - 1) / (whole - 1)
    if place == "tf_crop_and_resize":
        start, end = window
        if size > 1:
            return start * (old - 1) + i * (end - start) * (old - 1) / (size - 1)
        return i * 0 + 0.5 * (start + end) * (old - 1)
    if place == "tf_half_pixel_for_nn":
        return (i + 0.5) / scale
    if place == "pytorch_half_pixel" and size == 1:
        return i * 0
    c = (i + 0.5) / scale - 0.5
    if place == "half_pixel_symmetric":
        return c + old / 2 * (1 - size / (scale * old))
    return c


def _nearest_mode(a: Attributes) -> str:
    return a.get("nearest_mode", "round_prefer_floor" if a.opset >= 11 else "floor")


def _nearest(a: Attributes, c: Tensor) -> Tensor:
    how = _nearest_mode(a)
    if how == "floor":
        return torch.floor(c)
    if how == "ceil":
        return torch.ceil(c)
    return torch.ceil(c - 0.5) if how == "round_prefer_floor" else torch.floor(c + 0.5)


def _kernel(a: Attributes, distance: Tensor) -> Tensor:
    d = distance.abs()
    if _mode(a) == "linear":
        return torch.clamp(1 - d, min=0)
    b = a.get("cubic_coeff_a", -0.75)
    near = ((b + 2) * d - (b + 3)) * d * d + 1
    far = ((b * d - 5 * b) * d + 8 * b) * d - 4 * b
    return torch.where(d <= 1, near, torch.where(d < 2, far, torch.zeros_like(d)))


def _resized(a: Attributes, x: Tensor, axis: int, size: Any, scale: Any, window: tuple[float, float]) -> Tensor:
    """One axis of `x` at `size` new positions: a weighted sum of neighbours."""
    old = x.shape[axis]
    c = _coordinates(a, size, old, scale, window, x.device)
    if _mode(a) == "nearest":
        y = x.index_select(axis, _nearest(a, c).clamp(0, old - 1).to(torch.int64))
        return _outside(a, y, c, axis, old)
    squeeze = min(scale, 1.0) if a.get("antialias", 0) else 1.0
    reach = (1 if _mode(a) == "linear" else 2) / squeeze
    taps = torch.arange(math.floor(-reach) + 1, math.ceil(reach) + 1, dtype=torch.float64, device=x.device)
    places = torch.floor(c).unsqueeze(1) + taps
    weights = _kernel(a, (places - c.unsqueeze(1)) * squeeze)
    if a.get("exclude_outside", 0):
        weights = weights * ((places >= 0) & (places <= old - 1))
    weights = (weights / weights.sum(1, keepdim=True)).to(x.dtype)
    where = places.clamp(0, old - 1).to(torch.int64)
    shape = [1] * x.dim()
    shape[axis] = -1
    parts = (x.index_select(axis, where[:, t]) * weights[:, t].reshape(shape) for t in range(taps.numel()))
    y = next(parts)
    for part in parts:
        y = y + part
    return _outside(a, y, c, axis, old)


def _outside(a: Attributes, y: Tensor, c: Tensor, axis: int, old: Any) -> Tensor:
    if _place(a) != "tf_crop_and_resize":
        return y
    shape = [1] * y.dim()
    shape[axis] = -1
    out = ((c < 0) | (c > old - 1)).reshape(shape)
    return torch.where(out, torch.full_like(y, a.get("extrapolation_value", 0.0)), y)


def _grid_sample(a: Attributes, x: Tensor, grid: Tensor) -> Tensor:
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(a.get("mode", "linear"), a.get("mode", "linear"))
    if x.dim() not in (4, 5) or (x.dim() == 5 and mode == "bicubic"):
        raise NotNative(f"GridSample of {x.dim()} axes, {mode}")
    return F.grid_sample(x, grid, mode, a.get("padding_mode", "zeros"), bool(a.get("align_corners", 0)))


def _affine_grid(a: Attributes, theta: Tensor, size: Any) -> Tensor:
    return F.affine_grid(theta, ints(size), bool(a.get("align_corners", 0)))


def _dft(a: Attributes, x: Tensor, length: Any = None, axis: Any = None) -> Tensor:
    dim = scalar(axis) if axis is not None else a.get("axis", 1 if a.opset < 20 else -2)
    dim, count, kind = int(dim) % x.dim(), None if length is None else int(scalar(length)), x.dtype
    x = x.double()
    inverse, half = a.get("inverse", 0), a.get("onesided", 0)
    if inverse and half:
        return torch.fft.irfft(torch.view_as_complex(x.contiguous()), count, dim).unsqueeze(-1).to(kind)
    wave = torch.view_as_complex(x.contiguous()) if x.shape[-1] == 2 else torch.complex(x, torch.zeros_like(x))[..., 0]
    wave = torch.fft.ifft(wave, count, dim) if inverse else torch.fft.fft(wave, count, dim)
    return torch.view_as_real(wave.narrow(dim, 0, wave.shape[dim] // 2 + 1) if half else wave).to(kind)


def _stft(a: Attributes, x: Tensor, step: Any, window: Tensor | None = None, length: Any = None) -> Tensor:
    size = int(scalar(length)) if length is not None else window.shape[0]  # type: ignore[union-attr]
    signal = torch.view_as_complex(x.contiguous()) if x.shape[-1] == 2 else x.reshape(x.shape[0], x.shape[1])
    frames = signal.unfold(1, size, int(scalar(step)))
    frames = frames if window is None else frames * window
    half = a.get("onesided", 1) and not frames.is_complex()
    return torch.view_as_real(torch.fft.rfft(frames) if half else torch.fft.fft(frames))


OPS: dict[str, Op] = {
    "Resize": Op(_resize, (1, 2, 3)), "Upsample": Op(_resize, (1,)), "GridSample": Op(_grid_sample),
    "AffineGrid": Op(_affine_grid, (1,)), "DFT": Op(_dft, (1, 2)), "STFT": Op(_stft, (1, 3)),
}  # fmt: skip
