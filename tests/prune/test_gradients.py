"""Criteria that look at gradients: against plain autograd, and what happens where there are none or bad ones."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lessen
import small
from lessen import Fisher, LessenError, Snip, Taylor
from lessen.data.part import Batch
from lessen.models import trace
from lessen.statistics import collect, sampled_labels
from lessen.statistics.fallback import fall_backs
from lessen.statistics.gradients import task_loss

CRITERIA = (Snip, Taylor, Fisher)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return small.trained()


def mlp() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 4))


def batches(n: int = 24, labels: bool = True) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(n, 6, generator=generator), torch.randint(4, (n,), generator=generator)
    return [Batch((x,), y if labels else None)]


def known(model: nn.Module, data: list[Batch]) -> dict:
    return collect(model, trace(model, data[0].inputs[:1]).layers, data, sampled_labels)


def test_mean_and_mini_batch_square_are_those_of_autograd() -> None:
    model, data = mlp(), batches()
    found = known(model, data)["0.weight"].gradients
    each = []
    for start in range(0, 24, 8):
        loss = F.cross_entropy(model(data[0].inputs[0][start : start + 8]), data[0].labels[start : start + 8])
        each.append(torch.autograd.grad(loss, model[0].weight)[0])
    assert torch.allclose(found.mean, torch.stack(each).mean(0), atol=1e-7)
    assert torch.allclose(found.square, torch.stack(each).square().mean(0), atol=1e-8)


def test_fisher_is_the_mean_square_of_single_samples_gradients() -> None:
    model, data = mlp(), batches()
    found = known(model, data)["2.weight"].gradients
    squares = []
    for i in range(24):
        one = data[0].take(slice(i, i + 1))
        loss = sampled_labels(model(*one.inputs), one).sum()
        squares.append(torch.autograd.grad(loss, model[2].weight)[0].square())
    assert torch.allclose(found.fisher, torch.stack(squares).mean(0), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("technique", CRITERIA)
def test_the_lowest_scores_go_over_all_layers(technique: type) -> None:
    model, data = mlp(), batches()
    layers, statistics = trace(model, data[0].inputs).layers, known(model, data)
    each = technique(0.5).allocate(layers, statistics)
    scores, masks = {}, {}
    for x in layers:
        g = statistics[x.name].gradients
        scores[x.name] = {Snip: lambda g=g: g.mean.abs(), Taylor: lambda g=g: g.square.sqrt(),
                          Fisher: lambda g=g: g.fisher.sqrt()}[technique]() * x.matrix.abs()  # fmt: skip
        masks[x.name] = each[x.name].encode(x, statistics[x.name]).mask
    edge = torch.cat([s.flatten() for s in scores.values()]).sort().values[49]
    assert all(torch.equal(masks[n], scores[n] > edge) for n in masks)
    assert all(t.budget == "layer" for t in each.values())


@pytest.mark.parametrize("technique", CRITERIA)
def test_in_one_line_half_of_the_weights_go_and_the_network_still_works(technique: type, network: nn.Module) -> None:
    x, y = small.data(400, seed=3)
    pruned = lessen.apply(network, technique(0.5), (x, y))
    weights = [p for p in pruned.parameters() if p.ndim > 1]
    zeros = sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)
    x_test, y_test = small.data(1000, seed=4)
    with torch.no_grad():
        right = [(n(x_test).argmax(1) == y_test).float().mean().item() for n in (network, pruned)]
    assert zeros == pytest.approx(0.5, abs=0.01)
    assert right[1] > right[0] - 0.03


def test_nothing_is_computed_when_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: pytest.fail("a backward pass"))
    model, data = mlp(), batches()
    collect(model, trace(model, data[0].inputs).layers, data, fisher=0)


@pytest.mark.parametrize("technique", CRITERIA)
def test_the_model_is_left_as_it_was_found(technique: type) -> None:
    """In training mode, half frozen, with gradients of its own: nothing of that changes."""
    model, (x, y) = small.network(), small.data(64)
    model.train()
    next(model.parameters()).requires_grad_(False)
    model(x).sum().backward()
    before = copy.deepcopy(model.state_dict())
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    lessen.apply(model, technique(0.5), (x, y))
    assert model.training and model[1].training
    assert [p.requires_grad for p in model.parameters()] == [False] + [True] * (len(grads) - 1)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    for p, g in zip(model.parameters(), grads, strict=True):
        assert (p.grad is None and g is None) or torch.equal(p.grad, g)


class Tied(nn.Module):
    """One weight that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.b.weight = self.a.weight
        self.c = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(x).relu()).relu())


@pytest.mark.parametrize("technique", CRITERIA)
def test_a_shared_weight_counts_once_and_stays_shared(technique: type) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Tied()
    data = batches()
    pruned = lessen.apply(model, technique(0.5), (data[0].inputs[0], data[0].labels))
    assert pruned.a.weight is pruned.b.weight
    assert int((pruned.a.weight == 0).sum() + (pruned.c.weight == 0).sum()) == 30


@pytest.mark.parametrize("technique", CRITERIA)
def test_nan_gradients_are_refused_naming_the_layer_and_the_model_is_untouched(technique: type) -> None:
    class Overflow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 5, bias=False), nn.Linear(5, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.second((self.first(x) * 0).sqrt())  # the derivative of sqrt at 0

    model, data = Overflow(), batches()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(LessenError, match=r"first\.weight: its gradients are NaN or infinite\n  mend:"):
        lessen.apply(model, technique(0.5), (data[0].inputs[0], data[0].labels))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("technique", [Snip, Taylor])
def test_without_labels_the_fisher_information_stands_in_and_that_is_told(technique: type) -> None:
    model, data = mlp(), batches(labels=False)
    layer, statistics = trace(model, data[0].inputs).layers[0], known(model, data)["0.weight"]
    with fall_backs() as told:
        mask = technique(0.5).encode(layer, statistics).mask
    assert told == ["no gradient of the task's loss (no labels?): ranked by the Fisher information"]
    assert torch.equal(mask, Fisher(0.5).encode(layer, statistics).mask)


def test_where_nothing_can_be_derived_the_kronecker_estimate_stands_in_and_that_is_told() -> None:
    class Hard(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x).argmax(1)

    model, data = Hard(), batches()
    layer, statistics = trace(model, data[0].inputs).layers[0], known(model, data)["a.weight"]
    with fall_backs() as told:
        mask = Fisher(0.5).encode(layer, statistics).mask
    assert told == ["no gradients of single weights: ranked by w^2 E[x^2]"]
    score = layer.matrix.abs() * statistics.diagonal(6).sqrt()
    assert torch.equal(mask, score >= score.flatten().sort().values[12])


def test_a_weight_that_changed_since_is_refused() -> None:
    model, data = mlp(), batches()
    layers, statistics = trace(model, data[0].inputs).layers, known(model, data)
    with torch.no_grad():
        model[0].weight.mul_(2)
    with pytest.raises(LessenError, match=r"0\.weight: the weight changed since its statistics were collected"):
        Snip(0.5).encode(layers[0], statistics["0.weight"])


def test_under_a_scale_the_scores_are_those_of_the_network() -> None:
    model, data = mlp(), batches()
    layer, statistics = trace(model, data[0].inputs).layers[0], known(model, data)["0.weight"]
    scale = torch.tensor([0.1, 3.0, 1.0, 7.0, 0.5, 2.0])
    moved = statistics.gradients.scaled(scale)
    assert torch.allclose(layer.matrix * scale * moved.mean, layer.matrix * statistics.gradients.mean)
    assert torch.allclose((layer.matrix * scale).square() * moved.fisher,
                          layer.matrix.square() * statistics.gradients.fisher)  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "labels", "wanted"),
    [
        ((5, 4), torch.tensor([0, 1, 2, 3, 0]), "classes"),
        ((5, 7, 4), torch.zeros(5, 7, dtype=torch.long), "classes"),
        ((5, 4, 3, 3), torch.zeros(5, 3, 3, dtype=torch.long), "classes"),
        ((5, 1), torch.tensor([0, 1, 0, 1, 1]), "binary"),
        ((5, 1), torch.zeros(5), "squares"),
        ((5, 4), torch.zeros(5, 9), None),
        ((5,), torch.tensor([0, 1, 2, 3, 0]), None),
        ((5, 4), None, None),
    ],
)
def test_the_task_s_loss_follows_from_labels_and_outputs(shape: tuple, labels: Tensor | None, wanted: object) -> None:
    y = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    loss = task_loss(y, Batch((torch.zeros(5, 1),), labels))
    assert (loss is None) == (wanted is None)
    if wanted == "squares":
        assert loss == pytest.approx(float(y.square().mean()))
    if wanted == "binary":
        assert loss == pytest.approx(float(F.binary_cross_entropy_with_logits(y[:, 0], labels.float())))
