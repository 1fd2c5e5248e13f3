"""Where to cut the range of an activation: what is outside is clipped, what is inside is rounded."""

from __future__ import annotations

from typing import get_args

import numpy as np

from ..errors import LessenError
from .graph import Array
from .ranges import HALF, LEVELS, Histogram, Range, Rule

FRACTIONS = np.concatenate([np.linspace(1, 0.5, 51), np.geomspace(0.49, 0.005, 60)])  # of the full range, tried
TINY = 1e-30


def range_of(histogram: Histogram, rule: Rule, percentile: float = 99.99) -> Range:
    """The interval that this rule picks; all of them look at nothing but the histogram."""
    match rule:
        case "minmax":
            return histogram.full
        case "average":
            return average_range(histogram)
        case "percentile":
            return percentile_range(histogram, percentile)
        case "entropy":
            return entropy_range(histogram)
        case "weighted":
            return mse_range(histogram, weighted=True)
        case "mse":
            return mse_range(histogram)
        case _:
            raise LessenError(f"rule={rule!r}", where="target", mend=f"one of {', '.join(get_args(Rule))}, or None")


def average_range(histogram: Histogram) -> Range:
    """The moving average of each batch's extremes (Jacob et al. 2018, sec. 3.1)."""
    low, high = histogram.average or (0.0, 0.0)
    return Range(min(low, 0.0), max(high, 0.0))


def percentile_range(histogram: Histogram, percentile: float) -> Range:
    """Leaves out (100 - percentile) % of the values, half of them on each side."""
    full = histogram.full
    tail = (1 - percentile / 100) / 2 * histogram.counts.sum()
    cumulated = np.cumsum(histogram.counts)
    below = np.searchsorted(cumulated, tail, "right")
    above = np.searchsorted(cumulated, cumulated[-1] - tail, "left")
    low, high = (below - HALF) * histogram.width, (above - HALF + 1) * histogram.width
    return Range(min(max(low, full.low), 0.0), max(min(high, full.high), 0.0))


def entropy_range(histogram: Histogram) -> Range:
    """The range whose codes tell most of the values: the least KL divergence (Migacz, "8-bit inference", 2017).

    Both ends shrink together. What is clipped counts in the outermost bin; zeros have a code of their own and are
    left out, or a ReLU's would drown the rest.
    """
    full, counts = histogram.full, histogram.counts.astype(np.float64)
    counts[HALF] -= histogram.zeros
    part = counts.nonzero()[0]
    if not len(part):
        return full
    x, p = histogram.centers[part], counts[part]
    tried = [Range(full.low * f, full.high * f) for f in FRACTIONS if f >= 0.1]
    return min(tried, key=lambda r: _divergence(x, p, r))


def _divergence(x: Array, p: Array, r: Range) -> float:
    """KL of the clipped values from what the codes make of them, each code's share spread over its own bins."""
    inside = (x >= r.low) & (x <= r.high)
    if not inside.any():
        return np.inf
    kept = np.where(inside, p, 0.0)
    code = np.round((np.clip(x, r.low, r.high) - r.low) / r.scale).astype(np.int64)
    first, last = int(inside.argmax()), len(x) - 1 - int(inside[::-1].argmax())
    clipped = kept.copy()
    clipped[first] += float(p[x < r.low].sum())
    clipped[last] += float(p[x > r.high].sum())
    share = np.bincount(code, weights=kept, minlength=LEVELS + 1)
    bins = np.bincount(code, weights=inside, minlength=LEVELS + 1)
    spread = (share / np.maximum(bins, 1))[code]
    a, b = clipped[inside] / clipped.sum(), spread[inside] / spread[inside].sum()
    return float((a * np.log(a / np.maximum(b, 1e-9))).sum())


def mse_range(histogram: Histogram, weighted: bool = False) -> Range:
    """The interval of least squared error: rounding noise (step^2 / 12) inside, clipping outside (Banner et al. 2019).

    Values that are exactly zero have a code of their own and no noise. The two ends are searched in turn.

    Args:
        weighted: each value counts by its channel's importance, where the histogram knows it: the error is then what
            it does to the loss, to second order.
    """
    full = histogram.full
    x, p, zeros = _mass(histogram, weighted)
    low, high = full.low, full.high
    for _ in range(2):
        high = _best_end(x, p, zeros, low, high, full.high * FRACTIONS)
        low = -_best_end(-x[::-1], p[::-1], zeros, -high, -low, -full.low * FRACTIONS)
    return Range(low, high)


def noise(histogram: Histogram, r: Range, weighted: bool = False) -> float:
    """Expected squared error of a value when it is quantized to this range."""
    x, p, zeros = _mass(histogram, weighted)
    outside = np.where(x > r.high, x - r.high, np.where(x < r.low, r.low - x, 0.0))
    clipped = outside > 0
    inside = max(float(p[~clipped].sum()) - zeros, 0.0)
    return float((p * outside**2).sum() + inside * r.scale**2 / 12) / max(float(p.sum()), TINY)


def live_noise(histogram: Histogram) -> float:
    """The same when every batch is rounded to its own least and largest value."""
    rounded = 1 - histogram.zeros / max(float(histogram.counts.sum()), 1.0)
    return rounded * histogram.spread / max(histogram.seen, 1) / LEVELS**2 / 12


def _mass(histogram: Histogram, weighted: bool) -> tuple[Array, Array, float]:
    """Centers of the bins that hold something, ascending; what they hold; and how much of it is exactly zero."""
    part = histogram.counts.nonzero()[0]
    if weighted and histogram.weights.any():
        return histogram.centers[part], histogram.weights[part], histogram.weight_of_zeros
    return histogram.centers[part], histogram.counts[part].astype(np.float64), histogram.zeros


def _best_end(x: Array, p: Array, zeros: float, low: float, high: float, ends: Array) -> float:
    """The best upper end among `ends` when the lower end stays at `low`. x ascending."""
    if ends[0] <= 0:
        return high
    # moments of what lies above each end, by cumulated sums from the right
    m0, m1, m2 = (np.concatenate([np.cumsum((p * x**k)[::-1])[::-1], [0.0]]) for k in range(3))
    at = np.searchsorted(x, ends, "right")
    clipped = m2[at] - 2 * ends * m1[at] + ends**2 * m0[at]
    inside = np.maximum(m0[0] - zeros - m0[at], 0)
    error = inside * ((ends - low) / LEVELS) ** 2 / 12 + clipped
    return float(ends[int(np.argmin(error))])
