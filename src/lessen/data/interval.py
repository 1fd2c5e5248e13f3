"""How much worse the result is than the baseline, with a paired confidence interval.

A drop is counted in the units of `Metric.unit`, and positive is worse:

- points: 100 x the difference (accuracy, F1, Spearman, cosine, agreement; KL: hundredths of a nat);
- relative: the increase of the error in percent of the baseline's error (MSE, MAE), so that `--max-drop 1%` allows
  an error at most 1 % larger.

Methods: 0/1 scores: Bonett and Price, "Adjusted Wald confidence interval for a difference of binomial proportions
based on paired data", J. Educ. Behav. Stat. 37 (2012), eq. 4: sane for few samples and no discordant pair.
Other scores that are means: paired t, with the same adjustment (one imagined loss and one imagined gain of the largest
size seen). The rest: bootstrap over samples, percentiles (Efron and Tibshirani 1993, ch. 13), never narrower than the
weight of one imagined loss and gain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from lessen.data.metrics import Metric, Score
from lessen.errors import LessenError

RESAMPLES, USER_RESAMPLES = 1000, 200


@dataclass(frozen=True)
class Drop:
    """How much worse, in the metric's points or percent; `low` to `high` holds the truth with `confidence`."""

    value: float
    low: float
    high: float
    confidence: float
    method: str


def paired_drop(baseline: Score, result: Score, confidence: float = 0.95) -> Drop:
    """The drop from `baseline` to `result`, both on the same samples in the same order.

    Raises:
        LessenError: scores of different metrics or different samples, or a confidence outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise LessenError(f"confidence {confidence}", where="paired_drop", mend="give e.g. 0.95")
    if baseline.metric.name != result.metric.name or baseline.n != result.n:
        raise LessenError(
            f"{baseline.metric.name} on {baseline.n} samples against {result.metric.name} on {result.n}",
            where="paired_drop",
            mend="score both on the same samples with the same metric",
        )
    if not math.isfinite(baseline.value):
        raise LessenError(
            f"the original scores {baseline.value} in {baseline.metric.name}",
            where="baseline",
            mend="check model and data",
        )
    if not math.isfinite(result.value):
        return Drop(math.inf, math.inf, math.inf, confidence, "none: the result is not a number")
    value = drop_of(baseline.metric, baseline.value, result.value)
    low, high, method = math.nan, math.nan, "none"
    if math.isinf(value):
        low, high, method = value, value, "none: relative to an error of 0"
    elif baseline.per_sample is not None and result.per_sample is not None:
        low, high, method = _from_samples(baseline, result, confidence)
    elif baseline.again is not None and result.again is not None:
        low, high, method = _bootstrap(baseline, result, confidence)
    if baseline.metric.against == "reference":
        low = max(low, 0.0)  # nothing agrees with the original better than itself
    return Drop(value, min(low, value), max(high, value), confidence, method)


def drop_of(metric: Metric, baseline: float, result: float) -> float:
    """The drop alone, in the metric's points or percent; positive is worse."""
    worse = (baseline - result) if metric.higher_is_better else (result - baseline)
    if worse == 0:
        return 0.0
    if not is_relative(metric, baseline):
        return 100 * worse
    return 100 * worse / abs(baseline) if baseline else math.copysign(math.inf, worse)


def enough(n: int, max_drop: float, metric: Metric | None = None) -> str | None:
    """A warning if `n` test samples are too few to tell a drop of `max_drop` points from none.

    The half-width of a 95 % interval is about 1.96 sqrt(d / n), with d the share of samples on which the two networks
    differ; d is at least the drop itself, and twice that is assumed here.
    """
    if metric is not None and (metric.unit != "points" or metric.against != "labels"):
        return None
    share = max(2 * max_drop / 100, 0.002)
    width = 100 * 1.96 * math.sqrt(share / max(n, 1))
    if max_drop > 0 and width <= max_drop:
        return None
    if max_drop <= 0:
        return f"a drop of 0 can't be proven: {n} test samples leave about {width:.2g} points open"
    needed = math.ceil(share * (196 / max_drop) ** 2)
    return (
        f"{n} test samples are few for a promise of {max_drop:g} points: one sample weighs {100 / max(n, 1):.2g} "
        f"points and the interval is about +-{width:.2g}; {needed} samples would settle it"
    )


def is_relative(metric: Metric, baseline: float) -> bool:
    if metric.unit == "auto":
        return not (metric.higher_is_better and -1 <= baseline <= 1)
    return metric.unit == "relative"


def _from_samples(baseline: Score, result: Score, confidence: float) -> tuple[float, float, str]:
    assert baseline.per_sample is not None and result.per_sample is not None
    before, after = baseline.per_sample, result.per_sample
    sign = 100.0 if baseline.metric.higher_is_better else -100.0
    if is_relative(baseline.metric, baseline.value) and baseline.value:
        # delta method: what one sample adds to the ratio of the means, over and above the ratio itself
        influence = sign * (before * (result.value / baseline.value) - after) / abs(baseline.value)
        drop = drop_of(baseline.metric, baseline.value, result.value)
        low, high = _t_interval(influence, confidence)
        return drop + low, drop + high, "paired t of the ratio"
    worse = sign / 100 * (before - after)
    if bool((((before == 0) | (before == 1)) & ((after == 0) | (after == 1))).all()):
        low, high, method = *_bonett_price(worse, confidence), "bonett-price"
    else:
        low, high, method = *_t_interval(worse, confidence), "paired t"
    return 100 * low, 100 * high, method


def _bonett_price(worse: Tensor, confidence: float) -> tuple[float, float]:
    """Interval for the mean of paired 0/1 differences, values in {-1, 0, 1}."""
    n = len(worse) + 2
    lost, won = (int((worse > 0).sum()) + 1) / n, (int((worse < 0).sum()) + 1) / n
    width = NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt((lost + won - (lost - won) ** 2) / n)
    return max(-1.0, lost - won - width), min(1.0, lost - won + width)


def _t_interval(worse: Tensor, confidence: float) -> tuple[float, float]:
    """Interval for the mean of real differences, with an imagined loss and gain of the largest size."""
    largest = worse.abs().max()
    padded = torch.cat((worse, torch.stack((largest, -largest))))
    n = len(padded)
    width = t_quantile((1 + confidence) / 2, n - 1) * float(padded.std()) / math.sqrt(n)
    return float(padded.mean()) - width, float(padded.mean()) + width


def _bootstrap(baseline: Score, result: Score, confidence: float) -> tuple[float, float, str]:
    assert baseline.again is not None and result.again is not None
    count = RESAMPLES if baseline.rows is not None else USER_RESAMPLES
    generator = torch.Generator().manual_seed(0)
    drops = []
    for _ in range(count):
        index = torch.randint(baseline.n, (baseline.n,), generator=generator)
        drops.append(drop_of(baseline.metric, baseline.again(index), result.again(index)))
    finite = torch.tensor([d for d in drops if math.isfinite(d)], dtype=torch.float64)
    if len(finite) < count // 2:
        return math.nan, math.nan, "none: the metric fails on resamples"
    tails = torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=torch.float64)
    low, high = torch.quantile(finite, tails).tolist()
    if not is_relative(baseline.metric, baseline.value):  # resamples of equal answers show no spread at all; add the
        value = drop_of(baseline.metric, baseline.value, result.value)  # weight of one imagined loss and one gain
        least = 100 * NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt(2) / (baseline.n + 2)
        low, high = min(low, value - least), max(high, value + least)
    return low, high, f"bootstrap, {count} resamples"


def t_quantile(p: float, df: int) -> float:
    """Quantile of Student's t for 1/2 <= p < 1, by bisection on its exact distribution function."""
    low, high = 0.0, 1.0
    while t_cdf(high, df) < p:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, df) < p else (low, middle)
    return high


def t_cdf(t: float, df: int) -> float:
    """P(T <= t) for t >= 0 and integer df (Abramowitz and Stegun 26.7.3 and 26.7.4); normal above 2,000."""
    if df > 2000:
        return NormalDist().cdf(t)
    theta = math.atan2(t, math.sqrt(df))
    odd = df % 2
    term = math.cos(theta) if odd else 1.0
    total = term if df > 1 else 0.0
    for k in range(2 + odd, df - 1, 2):
        term *= (k - 1) / k * math.cos(theta) ** 2
        total += term
    area = (2 / math.pi) * (theta + math.sin(theta) * total) if odd else math.sin(theta) * total
    return (1 + area) / 2
