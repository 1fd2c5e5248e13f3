"""The step of a uniform grid: the one with the least weighted squared error."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_CHUNK = 1 << 18  # elements worked on at once: they stay in the cache
_GLANCE = 4096  # columns looked at in the coarse search


def levels(bits: int) -> tuple[int, int]:
    """Least and greatest code."""
    return -(1 << bits - 1), (1 << bits - 1) - 1


def fit(values: Tensor, weights: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Step and zero point of each row of `values` [n, m] that minimise sum_j weights_j (v_j - q_j)^2.

    A coarse then a fine search over how much of the range to clip, then least squares for the step given the codes
    (which is Lloyd's algorithm on uniform grids, so the error never grows).

    Args:
        weights: float [n, m] or [1, m], not negative.

    Returns:
        scale float32 [n], zero point int16 [n].
    """
    scales, zeros = [], []
    for v, w in _chunks(values, weights):
        scale, zero = _fit(v, w, bits, symmetric)
        scales.append(scale)
        zeros.append(zero)
    return torch.cat(scales), torch.cat(zeros).to(torch.int16)


def _chunks(values: Tensor, weights: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    step = max(1, _CHUNK // max(values.shape[1], 1))
    for start in range(0, len(values), step):
        yield values[start : start + step], weights if len(weights) == 1 else weights[start : start + step]


def unclipped(values: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """Least step (and its zero point) of each row that clips nothing."""
    full, least = _range(values, bits, symmetric)
    return full, _zero(full, torch.ones_like(full), least, bits, symmetric).to(torch.int16)


def _range(v: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    low, high = levels(bits)
    least, most = v.amin(1).clamp_max(0), v.amax(1).clamp_min(0)
    full = torch.maximum(most / high, least / low) if symmetric else (most - least) / (high - low)
    return torch.where(full > 0, full, torch.ones_like(full)).clamp_min(torch.finfo(torch.float32).tiny), least


def _fit(v: Tensor, w: Tensor, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    full, least = _range(v, bits, symmetric)
    clip = torch.ones_like(full)
    glance = slice(None, None, max(1, v.shape[1] // _GLANCE))
    for candidates, columns in ((_coarse(bits), glance), (_FINE, slice(None))):
        clip = _search(v[:, columns], w[:, columns], clip, candidates, (full, least, bits, symmetric))
    scale = full * clip
    zero = _zero(scale, clip, least, bits, symmetric)
    for _ in range(2):
        scale = _least_squares(v, w, scale, zero, bits)
    return scale, zero


_FINE = (0.89, 0.945, 1.0, 1.06, 1.12)


def _coarse(bits: int) -> tuple[float, ...]:
    most = 6 if bits >= 6 else 9 if bits >= 4 else 13
    return tuple(0.81**i for i in range(most))


_Range = tuple[Tensor, Tensor, int, bool]


def _search(v: Tensor, w: Tensor, clip: Tensor, candidates: tuple[float, ...], span: _Range) -> Tensor:
    full, least, bits, symmetric = span
    best, chosen = torch.full_like(full, torch.inf), clip
    for factor in candidates:
        tried = (clip * factor).clamp_max(1.0)
        scale = full * tried
        error = _error(v, w, scale, _zero(scale, tried, least, bits, symmetric), bits)
        better = error < best
        best, chosen = torch.where(better, error, best), torch.where(better, tried, chosen)
    return chosen


def _zero(scale: Tensor, clip: Tensor, least: Tensor, bits: int, symmetric: bool) -> Tensor:
    low, high = levels(bits)
    return torch.zeros_like(scale) if symmetric else (low - least * clip / scale).round().clamp(low, high)


def _codes(v: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    """Codes minus the zero point, as floats."""
    low, high = levels(bits)
    k = (v / scale[:, None]).round_()
    return torch.clamp_(k, (low - zero)[:, None], (high - zero)[:, None])


def _error(v: Tensor, w: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    squares = torch.addcmul(v, _codes(v, scale, zero, bits), scale[:, None], value=-1).square_()
    return squares @ w[0] if len(w) == 1 else squares.mul_(w).sum(1)


def _least_squares(v: Tensor, w: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    k = _codes(v, scale, zero, bits)
    weighted = k * w
    step = (weighted * v).sum(1) / (weighted * k).sum(1).clamp_min(1e-30)
    return torch.where(step > 1e-30, step, scale)
