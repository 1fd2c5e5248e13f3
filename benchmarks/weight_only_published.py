"""GPTQ, AWQ and HQQ, re-derived from their papers and the defaults that their authors use, on one weight matrix.

All three round to the same kind of grid: codes 0 ... 2^bits - 1, an affine step for each output channel or group of
consecutive inputs, as large as the values need (min-max). `Grid` here is what a file would hold: codes, the steps in
float16, zero points.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Rounded:
    """A rounded matrix.

    Args:
        weight: the decoded values, float32 [rows, columns].
        bits: a weight costs, with its share of scales (16 bits) and zero points.
    """

    weight: Tensor
    bits: float


def cost(bits: int, size: int, zero_bits: int) -> float:
    """Bits a weight: codes, and for each group a float16 scale and a zero point."""
    return bits + (16 + zero_bits) / size


def min_max(w: Tensor, bits: int, symmetric: bool = False) -> tuple[Tensor, Tensor]:
    """Step (a float16 value) and zero point of each row: the least that clips nothing."""
    top = (1 << bits) - 1
    low, high = w.amin(1).clamp_max(0), w.amax(1).clamp_min(0)
    if symmetric:
        high = torch.maximum(-low, high)
        low = -high
    empty = (low == 0) & (high == 0)
    low, high = torch.where(empty, -torch.ones_like(low), low), torch.where(empty, torch.ones_like(high), high)
    scale = ((high - low) / top).half().float().clamp_min(6e-8)
    zero = torch.full_like(scale, (top + 1) / 2) if symmetric else (-low / scale).round().clamp(0, top)
    return scale, zero


def snap(w: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    """The nearest levels."""
    return ((w / scale).round() + zero).clamp(0, (1 << bits) - 1).sub(zero) * scale


def nearest(W: Tensor, bits: int, group: int | None, symmetric: bool = False) -> Rounded:
    """Round to nearest on the min-max grid."""
    size = group or W.shape[1]
    w = W.reshape(-1, size)
    scale, zero = min_max(w, bits, symmetric)
    return Rounded(snap(w, scale[:, None], zero[:, None], bits).reshape(W.shape), cost(bits, size, bits))


def gptq(
    W: Tensor, H: Tensor, bits: int, group: int | None = None, act_order: bool = False, symmetric: bool = False
) -> Rounded:
    """Frantar et al. 2022, algorithm 1: blocks of 128 columns, 1 % dampening.

    Without act-order the grid of a group is fitted when its first column is reached, to the weights as they are then;
    with act-order to the original weights (the authors' `static_groups`), as columns of a group no longer lie together.
    """
    W, H, (rows, columns), size = W.clone(), H.clone(), W.shape, group or W.shape[1]
    dead = H.diagonal() == 0
    H[dead, dead], W[:, dead] = 1, 0
    order = H.diagonal().argsort(descending=True) if act_order else torch.arange(columns)
    static = [min_max(W[:, k : k + size], bits, symmetric) for k in range(0, columns, size)]
    W, H = W[:, order], H[order][:, order]
    H.diagonal().add_(0.01 * H.diagonal().mean())
    U = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(H)), upper=True)
    Q, place = torch.zeros_like(W), order.tolist()
    scale, zero = static[0]
    for start in range(0, columns, 128):
        end = min(start + 128, columns)
        w, E, u = W[:, start:end].clone(), torch.zeros(rows, end - start), U[start:end, start:end]
        for i in range(end - start):
            if group and act_order:
                scale, zero = static[place[start + i] // group]
            elif group and (start + i) % group == 0:
                scale, zero = min_max(W[:, start + i : start + i + group], bits, symmetric)
            q = snap(w[:, i], scale, zero, bits)
            Q[:, start + i] = q
            e = (w[:, i] - q) / u[i, i]
            w[:, i:] -= e[:, None] * u[i, i:]
            E[:, i] = e
        W[:, end:] -= E @ U[start:end, end:]
    return Rounded(Q[:, order.argsort()], cost(bits, size, 0 if symmetric else bits))


def hqq(W: Tensor, bits: int, group: int | None = None) -> Rounded:
    """Badri & Shaji 2023: half-quadratic splitting for the zero points (floats), lp norm 0.7; no data."""
    size, top = group or W.shape[1], (1 << bits) - 1
    w = W.reshape(-1, size)
    low, high = w.amin(1, keepdim=True), w.amax(1, keepdim=True)
    inverse = (top / (high - low).clamp_min(1e-8)).clamp_max(2e4)
    zero, beta, best, kept = -low * inverse, 10.0, float("inf"), -low * inverse
    for _ in range(20):
        codes = (w * inverse + zero).round().clamp(0, top)
        error = w - (codes - zero) / inverse
        now = float(error.abs().mean())
        if now >= best:
            break
        best, kept = now, zero
        size_of = error.abs()
        shrunk = error.sign() * (size_of - size_of.clamp_min(1e-8).pow(0.7 - 1) / beta).clamp_min(0)
        zero = (codes - (w - shrunk) * inverse).mean(1, keepdim=True)
        beta *= 1.01
    zero, scale = kept.half().float(), (1 / inverse).half().float()
    codes = (w / scale + zero).round().clamp(0, top)
    return Rounded(((codes - zero) * scale).reshape(W.shape), cost(bits, size, 16))


def awq_scale(weights: list[Tensor], H: Tensor, mean_abs: Tensor, bits: int, group: int | None) -> Tensor:
    """Lin et al. 2023, sec. 3.2: s = mean|x|^a, a from 0 to 1 in steps of 1/20, least error of the layers' outputs.

    Args:
        weights: of all layers that read this input.
        H: second moment of the input: the output error of W - Q is tr((W - Q) H (W - Q)T).
    """
    best, chosen = float("inf"), torch.ones_like(mean_abs)
    for step in range(20):
        s = mean_abs.pow(step / 20).clamp_min(1e-4)
        s = s / (s.max() * s.min()).sqrt()
        error = 0.0
        for W in weights:
            E = nearest(W * s, bits, group).weight / s - W
            error += float(((E @ H) * E).sum())
        if error < best:
            best, chosen = error, s
    return chosen


def awq(W: Tensor, H: Tensor, scale: Tensor, bits: int, group: int | None = None, clip: bool = True) -> Rounded:
    """W with its columns times `scale` rounded to nearest, the range of each group clipped by what the search finds.

    The search (sec. 3.2 of the paper's code: ten steps down to half of the range) minimises the error that a group
    makes in the output: its own block of H.
    """
    size = group or W.shape[1]
    w, Hs = W * scale, H / torch.outer(scale, scale)
    if not clip:
        made = nearest(w, bits, group)
        return Rounded(made.weight / scale, made.bits)
    parts = []
    for k in range(0, W.shape[1], size):
        part, block = w[:, k : k + size], Hs[k : k + size, k : k + size]
        parts.append(_clipped(part, block, bits))
    return Rounded(torch.cat(parts, 1) / scale, cost(bits, size, bits))


def _clipped(part: Tensor, H: Tensor, bits: int) -> Tensor:
    most, best, chosen = part.abs().amax(1, keepdim=True), torch.full((len(part),), torch.inf), part
    for step in range(10):
        limit = most * (1 - step / 20)
        cut = torch.minimum(torch.maximum(part, -limit), limit)
        q = snap(cut, *(t[:, None] for t in min_max(cut, bits)), bits)
        E = q - part
        error = ((E @ H) * E).sum(1)
        better = error < best
        best, chosen = torch.where(better, error, best), torch.where(better[:, None], q, chosen)
    return chosen
