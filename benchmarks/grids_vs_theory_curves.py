"""What theory says of quantizers of a Gaussian of variance 1: integrals over its density, nothing sampled."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

_X = torch.linspace(-8, 8, 320_001, dtype=torch.float64)
_P = torch.exp(-_X * _X / 2) / math.sqrt(2 * math.pi) * (_X[1] - _X[0])


def uniform(bits: int) -> float:
    """Least error of levels k * step with k from -2^(bits - 1) to 2^(bits - 1) - 1."""
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    return _least(lambda s: (_X / s).round().clamp(low, high) * s, 8 / (1 << bits))


def table(levels: Tensor) -> float:
    """Least error of a table of levels times a scale."""
    ordered = levels.double().sort().values
    edges = (ordered[1:] + ordered[:-1]) / 2
    return _least(lambda s: ordered[torch.bucketize(_X / s, edges)] * s, 3.5 / float(ordered.abs().max()))


def powers_of_two(levels: Tensor) -> float:
    """The same with a scale that is a power of two."""
    ordered = levels.double().sort().values
    edges = (ordered[1:] + ordered[:-1]) / 2
    top = math.floor(math.log2(8 / float(ordered.abs().max())))
    return min(_error(ordered[torch.bucketize(_X / 2.0**e, edges)] * 2.0**e) for e in range(top - 6, top + 2))


def fixed_point(bits: int) -> float:
    """`uniform` with a step that is a power of two."""
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1
    return min(_error((_X * 2.0**n).round().clamp(low, high) / 2.0**n) for n in range(-2, bits + 2))


def lloyd_max(bits: int) -> float:
    """Least error of any 2^bits levels: Newton's method on "every level is the mean of its cell" (Max 1960)."""
    share = (torch.arange(1 << bits, dtype=torch.float64) + 0.5) / (1 << bits)
    levels = torch.special.ndtri(share) * math.sqrt(3)  # optimal densities go as the cube root: a wider Gaussian
    far = torch.tensor([12.0], dtype=torch.float64)
    for _ in range(60):
        edges = torch.cat([-far, (levels[1:] + levels[:-1]) / 2, far])
        p = torch.exp(-edges * edges / 2) / math.sqrt(2 * math.pi)
        mass = torch.special.ndtr(edges).diff()
        means = -p.diff() / mass
        below, above = p[:-1] * (means - edges[:-1]) / mass / 2, p[1:] * (edges[1:] - means) / mass / 2
        slope = torch.diag(1 - below - above) - torch.diag(below[1:], -1) - torch.diag(above[:-1], 1)
        step = torch.linalg.solve(slope, means - levels)
        levels = levels + step * min(1.0, 0.3 * float(levels.diff().min() / step.abs().max().clamp_min(1e-30)))
        if float(step.abs().max()) < 1e-13:
            break
    return float(1 - (mass * means.square()).sum())


def quantile(bits: int) -> float:
    """Error of 2^bits cells of equal mass held as their means, a value taking the nearest."""
    share = torch.arange(1, 1 << bits, dtype=torch.float64) / (1 << bits)
    inner = torch.special.ndtri(share)
    density = torch.cat([torch.zeros(1), torch.exp(-inner * inner / 2) / math.sqrt(2 * math.pi), torch.zeros(1)])
    means = -density.double().diff() * (1 << bits)
    edges = (means[1:] + means[:-1]) / 2
    return _error(means[torch.bucketize(_X, edges)])


def entropy_coded(bits: float) -> float:
    """Error of a uniform quantizer with ideal entropy coding at this rate, its levels the means of their cells.

    That is the best scalar quantizer to four digits (Farvardin & Modestino 1984).
    """
    low, high = 0.01, 8.0
    for _ in range(60):  # the rate falls as the step grows
        step = math.sqrt(low * high)
        low, high = (step, high) if _coded(step)[0] > bits else (low, step)
    return _coded(step)[1]


def _coded(step: float) -> tuple[float, float]:
    """(entropy, error) of the cells of width `step` around its multiples."""
    cell = (_X / step).round()
    _, index = cell.unique(return_inverse=True)
    mass = torch.zeros(int(index.max()) + 1, dtype=torch.float64).index_add_(0, index, _P)
    first = torch.zeros_like(mass).index_add_(0, index, _P * _X)
    levels = first / mass.clamp_min(1e-300)
    entropy = -float((mass * mass.clamp_min(1e-300).log2()).sum())
    return entropy, _error(levels[index])


def _error(quantized: Tensor) -> float:
    return float(((_X - quantized).square() * _P).sum())


def _least(quantized: Callable[[float], Tensor], start: float) -> float:
    """The least error over scales from a quarter to twice `start`: a coarse search, then two finer ones."""
    scale = start
    for low, high, count in ((-1.4, 0.7, 40), (-0.05, 0.05, 41), (-0.0025, 0.0025, 11)):
        factors = torch.linspace(low, high, count)
        tried = [scale * math.exp(f) for f in factors.tolist()]
        errors = [_error(quantized(s)) for s in tried]
        scale = tried[errors.index(min(errors))]
    return min(errors)
