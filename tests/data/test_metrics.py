"""Metrics against their definitions, on the shapes that networks answer."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lessen.data import Score, evaluate, load_data, metric_for, metric_named, outputs_of
from lessen.data.part import Batch, Part
from lessen.errors import LessenError


def _score(name: str, outputs: Tensor, target: Tensor, batch_size: int = 3) -> Score:
    """`name` on given outputs, batch by batch; the inputs are the outputs."""
    metric = metric_named(name, True)
    part = Part("test", (Batch((outputs,), target if metric.against == "labels" else None),), batch_size)
    return evaluate(metric, lambda inputs: inputs[0], part, list(target.split(batch_size)))


def test_accuracy_and_top5() -> None:
    outputs = torch.eye(8)[[0, 1, 2, 3]] + torch.linspace(0, 0.1, 8)
    assert _score("accuracy", outputs, torch.tensor([0, 1, 2, 7])).value == 0.75
    assert _score("top-5", outputs, torch.tensor([0, 7, 4, 0])).value == 0.75
    assert _score("top5", torch.rand(4, 3), torch.tensor([0, 1, 2, 0])).value == 1.0


def test_accuracy_of_positions() -> None:
    labels = torch.tensor([[0, 1, -100], [1, 1, -100], [-100, -100, -100], [2, 0, 1]])
    right = torch.nn.functional.one_hot(labels.clamp_min(0), 4).float()
    right[1, 0] = torch.tensor([9.0, 0, 0, 0])
    score = _score("accuracy", right, labels)
    assert score.value == pytest.approx((1 + 0.5 + 1) / 3) and score.n == 3
    assert _score("accuracy", right.movedim(-1, 1), labels).value == score.value  # classes second, as in pictures


@pytest.mark.parametrize("outputs", [torch.tensor([0.2, 0.9, 0.6, 0.4]), torch.tensor([[-3.0], [2.0], [0.3], [-0.1]])])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_single_probability_or_logit(outputs: Tensor, batch_size: int) -> None:
    assert _score("accuracy", outputs, torch.tensor([0, 1, 1, 0]), batch_size).value == 1.0
    assert _score("f1", outputs, torch.tensor([0, 1, 1, 0]), batch_size).value == 1.0


def test_f1_is_macro() -> None:
    predicted, labels = torch.tensor([0, 0, 0, 1, 3]), torch.tensor([0, 0, 1, 1, 2])
    score = _score("f1", torch.nn.functional.one_hot(predicted, 5).float(), labels)
    assert score.value == pytest.approx((0.8 + 2 / 3 + 0 + 0) / 4)  # classes 0, 1, 2 and the wrongly predicted 3


def test_errors() -> None:
    outputs, labels = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([1.0, 0.0, 1.0])
    assert _score("mse", outputs, labels).value == pytest.approx((0 + 4 + 9) / 3)
    assert _score("mae", outputs, labels).value == pytest.approx(5 / 3)
    assert not metric_named("mse", True).higher_is_better


def test_spearman() -> None:
    stats = pytest.importorskip("scipy.stats")
    generator = torch.Generator().manual_seed(1)
    a = torch.randint(0, 9, (50,), generator=generator).float()
    b = a + 3 * torch.rand(50, generator=generator).round()
    assert _score("spearman", a, b).value == pytest.approx(float(stats.spearmanr(a, b)[0]))
    assert _score("spearman", torch.ones(5), torch.arange(5.0)).value == 0.0


def test_agreement_with_the_original() -> None:
    reference = torch.tensor([[2.0, 1, 0], [0, 3, 1], [0, 0, 0]])
    for name, same in (("cosine", 1.0), ("agreement", 1.0), ("kl", 0.0)):
        assert _score(name, reference, reference).value == pytest.approx(same)
    assert _score("cosine", -reference[:2], reference[:2]).value == pytest.approx(-1)
    assert _score("agreement", reference[[1, 1]], reference[:2]).value == 0.5
    p, q = reference[:1].softmax(1), reference[1:2].softmax(1)
    assert _score("kl", reference[1:2], reference[:1]).value == pytest.approx(
        float((p * (p / q).log()).sum()), rel=1e-5
    )


@pytest.mark.parametrize("name", ["accuracy", "top5", "f1", "agreement"])
def test_nan_is_never_right(name: str) -> None:
    target = torch.eye(4) if name == "agreement" else torch.arange(4)
    assert _score(name, torch.full((4, 4), math.nan), target).value == 0.0


@pytest.mark.parametrize("name", ["mse", "cosine", "kl", "spearman"])
def test_nan_is_told(name: str) -> None:
    assert math.isnan(_score(name, torch.full((4, 1), math.nan), torch.ones(4, 1)).value)


def test_outputs_of_any_kind() -> None:
    part = load_data((torch.rand(40, 4), torch.arange(40) % 4)).test
    metric = metric_named(None, True)
    assert metric.name == "accuracy"
    values = {
        evaluate(metric, run, part).value
        for run in (
            lambda i: i[0],
            lambda i: (i[0], "hidden"),
            lambda i: {"logits": i[0], "other": None},
            lambda i: [i[0].numpy()],
            lambda i: i[0].clone().requires_grad_(),
        )
    }
    assert len(values) == 1


def test_reference_by_batch() -> None:
    part = load_data(torch.rand(40, 4)).test
    metric = metric_named(None, False)
    assert metric.name == "cosine"
    assert evaluate(metric, lambda i: i[0], part, outputs_of(lambda i: i[0], part)).value == pytest.approx(1)
    with pytest.raises(LessenError, match="reference_outputs=outputs_of"):
        evaluate(metric, lambda i: i[0], part)


def test_default_metric_fits_the_labels() -> None:
    x = torch.rand(40, 4)
    assert metric_for(load_data((x, torch.arange(40)))).name == "accuracy"
    assert metric_for(load_data((x, torch.rand(40)))).name == "mse"
    assert metric_for(load_data(x)).name == "cosine"


USER = """
def share(outputs, labels):
    return float((outputs.argmax(1) == labels).double().mean())
def each(outputs, labels):
    return (outputs.argmax(1) - labels).abs()
each.higher_is_better = False
def odd(outputs, labels):
    return [1.0, 2.0]
def fails(outputs, labels):
    return outputs.nothing
"""


def test_users_metric(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(USER)
    part = load_data((torch.rand(40, 4), torch.arange(40) % 4)).test

    def named(name: str) -> Score:
        return evaluate(metric_named(f"{tmp_path}/mine.py:{name}", True), lambda i: i[0], part)

    assert named("share").value == evaluate(metric_named("accuracy", True), lambda i: i[0], part).value
    assert named("share").again is not None
    each = named("each")
    assert each.per_sample is not None and len(each.per_sample) == part.n and not each.metric.higher_is_better
    with pytest.raises(LessenError, match="return one number, or one number a sample"):
        named("odd")
    with pytest.raises(LessenError, match="AttributeError") as caught:
        named("fails")
    assert caught.value.where.endswith("mine.py:10")


def test_unknown_and_unfit_metrics() -> None:
    with pytest.raises(LessenError, match="did you mean 'accuracy'"):
        metric_named("acuracy", True)
    with pytest.raises(LessenError, match=r"needs labels, the data has none\n  mend: .* use cosine, agreement, kl"):
        metric_named("f1", False)
    with pytest.raises(LessenError, match="one-hot"):
        _score("accuracy", torch.rand(4, 3), torch.eye(4)[:, :3])
    with pytest.raises(LessenError, match=r"outputs \(3, 2\) for target \(3, 5\)"):
        _score("mse", torch.rand(3, 2), torch.rand(3, 5))
    with pytest.raises(LessenError, match="one number a sample"):
        _score("spearman", torch.rand(3, 2), torch.rand(3, 2))
