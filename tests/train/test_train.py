"""Fine-tuning through codings: the codings stay what they are, the network gets better, twice the same."""

import pytest
import torch

import small
from lessen import KMeans, Magnitude, Stack, Uniform
from lessen.data import load_data
from lessen.errors import LessenError
from lessen.models import trace
from lessen.statistics import Statistics
from lessen.train import Distillation, FineTune, copied, finetune, through_codings

PART = load_data({"calibration": small.data(512, seed=4), "validation": small.data(64), "test": small.data(64, seed=2)})


@pytest.fixture(scope="module")
def net():
    return small.trained()


def _trained(net, technique, keep_zeros=frozenset()):
    layers = {x.name: x for x in trace(net, (small.data(2)[0],)).layers}
    codings = {n: technique.encode(x, Statistics()) for n, x in layers.items()}
    student = copied(net)
    with torch.no_grad():
        for n, x in layers.items():
            student.get_parameter(n).copy_(x.from_matrix(codings[n].decode()))
    before = copied(student)
    names = frozenset(layers) if keep_zeros else frozenset()
    with through_codings(student, layers, codings, names) as made:
        finetune(student, net, PART.calibration, FineTune(epochs=2, lr=2e-3))
    return layers, codings, dict(made), before, student


@pytest.mark.parametrize("technique", [Uniform(2), KMeans(4), Stack((Magnitude(0.7), Uniform(3)))])
def test_it_recovers_and_keeps_to_the_codings(net, technique):
    keep = isinstance(technique, Stack)
    layers, codings, made, before, after = _trained(net, technique, keep)
    x = small.data(400, seed=6)[0]
    with torch.no_grad():
        wanted = net(x)
        assert (after(x) - wanted).square().mean() < (before(x) - wanted).square().mean()
    for name, layer in layers.items():
        held = layer.to_matrix(after.get_parameter(name).detach())
        torch.testing.assert_close(held, made[name].decode())
        assert type(made[name]) is type(codings[name]) and made[name].shape == codings[name].shape
        if keep:
            assert bool((held[codings[name].decode() == 0] == 0).all())


def test_two_trainings_give_the_same_weights(net):
    first, second = (_trained(net, Uniform(3))[4].state_dict() for _ in range(2))
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_distillation_without_labels_is_relative_error():
    teacher = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    loss = Distillation()(torch.zeros_like(teacher), teacher, None)
    assert float(loss) == pytest.approx(float(teacher.square().mean() / teacher.var()))


@pytest.mark.parametrize("bad", [{"epochs": 0}, {"lr": 0.0}, {"lr": float("nan")}, {"batch_size": 0}])
def test_nonsense_is_refused(bad):
    with pytest.raises(LessenError):
        FineTune(**bad)


def test_a_loss_that_explodes_is_an_error(net):
    student = copied(net)
    with torch.no_grad():
        student[0].weight.fill_(float("inf"))
    with pytest.raises(LessenError, match="not finite"):
        finetune(student, net, PART.calibration)
