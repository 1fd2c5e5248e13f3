"""The paired interval: it covers the truth as often as it says, and is sane at the edges."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lessen.data import Drop, Metric, Score, enough, interval, metric_named, paired_drop
from lessen.data.interval import drop_of, t_quantile
from lessen.data.metrics import f1, mse, spearman
from lessen.errors import LessenError

ACCURACY = metric_named("accuracy", True)


def _sampled(metric: Metric, scores: Tensor) -> Score:
    return Score(metric, float(scores.double().mean()), len(scores), per_sample=scores.double())


def _drop(before: Tensor, after: Tensor, metric: Metric = ACCURACY, confidence: float = 0.95) -> Drop:
    return paired_drop(_sampled(metric, before), _sampled(metric, after), confidence)


def _corpus(metric: Metric, rows: Tensor) -> Score:
    total = metric.total
    assert total is not None
    return Score(metric, total(rows), len(rows), rows=rows, again=lambda index: total(rows[index]))


@pytest.mark.parametrize("df", [1, 2, 3, 4, 5, 9, 30, 101, 1999, 5000])
@pytest.mark.parametrize("p", [0.75, 0.95, 0.975, 0.9995])
def test_t_quantile(df: int, p: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    assert t_quantile(p, df) == pytest.approx(float(stats.t.ppf(p, df)), rel=2e-3 if df > 2000 else 1e-8)


@pytest.mark.parametrize("n", [100, 500])
@pytest.mark.parametrize(("lost", "won"), [(0.01, 0.01), (0.03, 0.01), (0.1, 0.05), (0.005, 0.0)])
def test_coverage_of_accuracy(n: int, lost: float, won: float) -> None:
    generator = torch.Generator().manual_seed(3)
    before = (torch.rand(1500, n, generator=generator) < 0.8).double()
    flip = torch.rand(1500, n, generator=generator)
    after = torch.where(before == 1, (flip >= lost / 0.8).double(), (flip < won / 0.2).double())
    truth = 100 * (lost - won)
    drops = [_drop(b, a) for b, a in zip(before, after, strict=True)]
    assert sum(d.low <= truth <= d.high for d in drops) / len(drops) >= 0.93
    assert sum(d.high - d.low for d in drops) / len(drops) < 3 * 400 * math.sqrt((lost + won + 2 / n) / n)


def test_coverage_of_relative_error() -> None:
    generator = torch.Generator().manual_seed(4)
    hits = 0
    for _ in range(800):
        errors = torch.randn(150, generator=generator).double()
        noise = 0.2 * torch.randn(150, generator=generator).double()
        drop = _drop(errors.square(), (errors + noise).square(), mse)
        assert drop.method == "paired t of the ratio"
        hits += drop.low <= 4.0 <= drop.high  # E (e + noise)^2 = 1.04 E e^2
    assert hits / 800 >= 0.92


def test_coverage_of_f1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interval, "RESAMPLES", 200)  # enough for this test's tolerance
    generator = torch.Generator().manual_seed(5)

    def predictions(labels: Tensor, wrong: float) -> Tensor:
        flip = torch.rand(len(labels), generator=generator) < wrong
        return torch.where(flip, (labels + 1) % 3, labels)

    hits = 0
    for _ in range(100):
        labels = torch.randint(3, (200,), generator=generator)
        before, after = predictions(labels, 0.1), predictions(labels, 0.15)
        drop = paired_drop(_corpus(f1, torch.stack((before, labels), 1)), _corpus(f1, torch.stack((after, labels), 1)))
        hits += drop.low <= 5.0 <= drop.high
    assert hits >= 90


def test_no_discordance_is_not_certainty() -> None:
    same = torch.ones(20)
    drop = _drop(same, same)
    assert drop.value == 0 and drop.low < -5 and drop.high > 5 and drop.method == "bonett-price"
    assert _drop(torch.ones(10000), torch.ones(10000)).high < 0.05
    rows = torch.stack((torch.arange(60) % 3, torch.arange(60) % 3), 1)
    assert paired_drop(_corpus(f1, rows), _corpus(f1, rows)).high > 1


def test_extremes_stay_possible() -> None:
    drop = _drop(torch.ones(5), torch.zeros(5))
    assert drop.value == 100 and drop.high == 100 and 0 < drop.low < 100
    one = _drop(torch.ones(1), torch.zeros(1))
    assert one.low <= one.value <= one.high
    single = _drop(torch.tensor([0.3]), torch.tensor([0.2]), metric_named("accuracy", True))
    assert math.isfinite(single.high)


def test_signs_and_units() -> None:
    assert drop_of(ACCURACY, 0.9, 0.88) == pytest.approx(2)  # two points lost
    assert drop_of(ACCURACY, 0.9, 0.95) == pytest.approx(-5)
    assert drop_of(mse, 2.0, 2.1) == pytest.approx(5)  # five percent more error
    assert drop_of(mse, 2.0, 1.0) == pytest.approx(-50)
    assert drop_of(mse, 0.0, 0.0) == 0 and drop_of(mse, 0.0, 0.1) == math.inf
    assert drop_of(metric_named("kl", False), 0.0, 0.02) == pytest.approx(2)  # hundredths of a nat
    auto = Metric("mine", True, lambda o, t: o, unit="auto")
    assert drop_of(auto, 0.9, 0.89) == pytest.approx(1) and drop_of(auto, 32.0, 31.68) == pytest.approx(1)


def test_agreement_cannot_rise_above_the_original() -> None:
    agreement = metric_named("agreement", False)
    drop = _drop(torch.ones(100), torch.cat((torch.ones(99), torch.zeros(1))), agreement)
    assert drop.low == 0 and drop.value == pytest.approx(1) and drop.high > 2


def test_more_confidence_is_wider_and_order_counts() -> None:
    generator = torch.Generator().manual_seed(0)
    before, after = torch.rand(50, generator=generator), torch.rand(50, generator=generator)
    narrow, wide = _drop(before, after, confidence=0.8), _drop(before, after, confidence=0.99)
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high
    back = _drop(after, before)
    assert back.value == pytest.approx(-narrow.value) and back.low == pytest.approx(-_drop(before, after).high)


def test_deterministic_and_private() -> None:
    rows = torch.rand(80, 2, generator=torch.Generator().manual_seed(0))
    other = rows + 0.2 * torch.rand(80, 2, generator=torch.Generator().manual_seed(1))
    state = torch.get_rng_state()
    first = paired_drop(_corpus(spearman, rows), _corpus(spearman, other))
    assert first == paired_drop(_corpus(spearman, rows), _corpus(spearman, other))
    assert torch.equal(state, torch.get_rng_state()) and first.low < first.value < first.high


def test_a_broken_result_is_an_endless_drop() -> None:
    good, bad = _sampled(mse, torch.ones(9)), _sampled(mse, torch.full((9,), math.nan))
    assert paired_drop(good, bad).value == math.inf
    with pytest.raises(LessenError, match="the original scores nan"):
        paired_drop(bad, good)


def test_refuses_what_is_not_paired() -> None:
    with pytest.raises(LessenError, match="on 9 samples against accuracy on 8"):
        _drop(torch.ones(9), torch.ones(8))
    with pytest.raises(LessenError, match="mse on 9"):
        paired_drop(_sampled(mse, torch.ones(9)), _sampled(ACCURACY, torch.ones(9)))
    with pytest.raises(LessenError, match="confidence 95"):
        _drop(torch.ones(9), torch.ones(9), confidence=95)


def test_enough() -> None:
    text = enough(20, 1.0)
    assert text is not None and "one sample weighs 5 points" in text
    assert enough(1000, 1.0) is None and enough(500, 1.0) is not None and enough(200, 5.0) is None
    needed = int(text.split(";")[1].split()[0])
    assert enough(needed, 1.0) is None and enough(needed - 1, 1.0) is not None
    assert enough(10**6, 0.0) is not None
    assert enough(20, 1.0, mse) is None
