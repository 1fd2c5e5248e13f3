"""Learned rounding: units of a network, soft rounding, and what comes out of both methods."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import lessen
import small
from lessen import AdaRound, BlockReconstruction, HalfSteps, LessenError, Uniform
from lessen.codings import Grid
from lessen.demo.network import ResNet
from lessen.models import trace
from lessen.statistics import Statistics, collect
from lessen.train.blocks_learn import Problem
from lessen.train.blocks_method import _Run
from lessen.train.blocks_round import SoftRounding
from lessen.train.blocks_units import units_of


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def units(net: nn.Module, x: Tensor, blocks: bool) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    found, left = units_of(net.eval(), (x,), trace(net, (x,)).layers, blocks)
    return [u.layers for u in found], left


class Mixed(nn.Module):
    """Everything that is awkward: a shared module, a tied weight, an embedding, a depthwise pair."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(11, 8)
        self.stem = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
        self.twice, self.last, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 11, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(self.tokens(x))
        return self.head(self.last(self.twice(self.twice(x))))


def test_residual_blocks_and_their_kin_are_units():
    found, left = units(ResNet(1, 8), draw(2, 1, 28, 28), True)
    blocks = [(f"blocks.{i}.conv1.weight", f"blocks.{i}.conv2.weight") for i in range(3)]
    blocks = [b + ((f"blocks.{i}.shortcut.0.weight",) if i else ()) for i, b in enumerate(blocks)]
    assert found == [("stem.0.weight",), *blocks, ("head.weight",)] and left == ()
    single, _ = units(ResNet(1, 8), draw(2, 1, 28, 28), False)
    assert all(len(u) == 1 for u in single) and len(single) == 10


def test_a_depthwise_convolution_goes_with_the_layer_behind_it():
    found, _ = units(small.network(), draw(2, 1, 12, 12), True)
    assert found == [("0.weight", "3.weight"), ("5.weight", "9.weight"), ("11.weight",)]


def test_what_runs_twice_or_has_two_names_is_left():
    found, left = units(Mixed(), torch.zeros(2, 3, dtype=torch.int64), True)
    assert found == [("stem.0.weight", "stem.2.weight"), ("last.weight",)]
    assert "twice.weight" in left


def one_layer() -> tuple:
    net, x = nn.Sequential(nn.Linear(24, 16)).eval(), draw(256, 24, seed=1)
    net[0].weight.data, net[0].bias.data = draw(16, 24, seed=2), draw(16, seed=3)
    layer = trace(net, (x[:2],)).layers[0]
    return layer, collect(net, [layer], [x], fisher=0)[layer.name]


@pytest.mark.parametrize("technique", [Uniform(3), Uniform(2, symmetric=False), Uniform(4, 8), Uniform(2, "tensor"),
                                       HalfSteps(2), HalfSteps(3, 8)], ids=repr)  # fmt: skip
def test_soft_rounding_begins_at_the_codes_it_is_given(technique):
    layer, known = one_layer()
    grid = technique.encode(layer, known)
    soft = SoftRounding(layer, grid)
    assert torch.equal(soft.coding().codes, grid.codes) and soft.coding().codes.dtype == grid.codes.dtype
    inside = (grid.codes.float() - layer.matrix / soft.scale - soft.zero).abs() < soft.gap
    assert float(((soft().detach() - grid.decode()).abs() / soft.scale)[inside].max()) < 0.11 * soft.gap
    with torch.no_grad():
        soft.V.copy_(torch.where(soft.V > 0, 9.0, -9.0))
    torch.testing.assert_close(soft().detach(), soft.coding().decode())
    assert float(soft.undecided().detach()) == 0


def test_soft_rounding_keeps_masked_weights_at_zero():
    layer, _ = one_layer()
    masked = replace(layer, mask=draw(16, 24) > 0)
    soft = SoftRounding(masked, Uniform(3, symmetric=False).encode(masked, Statistics()))
    assert bool((soft.coding().decode()[~masked.mask] == 0).all()) and bool((soft()[~masked.mask] == 0).all())


@pytest.fixture(scope="module")
def net():
    return small.trained()


def distance(net: nn.Module, other: nn.Module) -> float:
    x = small.data(400, seed=7)[0]
    with torch.no_grad():
        return float((net(x) - other(x)).square().mean())


@pytest.mark.usefixtures("global_seeds_untouched")
@pytest.mark.parametrize("method", [AdaRound(bits=2, steps=60), BlockReconstruction(bits=2, steps=60)], ids=repr)
def test_on_unseen_data_it_is_better_than_each_layer_alone(net, method):
    data, before = small.data(600, seed=3), copy.deepcopy(net.state_dict())
    made, again = (lessen.apply(net, method, data) for _ in range(2))
    alone = lessen.apply(net, Uniform(2), data)
    assert distance(net, made) < 0.7 * distance(net, alone)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert all(torch.equal(v, made.state_dict()[k]) for k, v in again.state_dict().items())
    for name, coding in made.quantized.codings.items():
        assert isinstance(coding, Grid) and coding.bits == 2
        assert torch.equal(made.get_parameter(name).flatten(1), coding.decode())


def test_nothing_is_kept_that_is_worse_on_samples_set_aside(net, monkeypatch):
    told: list[list[tuple[object, float]]] = [[]]
    kept = []
    error, put = Problem.error, _Run._put

    def tell(self, made):
        told[-1].append((made, error(self, made)))
        return told[-1][-1][1]

    def keep(self, made, layers):
        kept.append(made)
        told.append([])
        return put(self, made, layers)

    monkeypatch.setattr(Problem, "error", tell)
    monkeypatch.setattr(_Run, "_put", keep)
    lessen.apply(net, BlockReconstruction(bits=3, steps=30), small.data(600, seed=3))
    assert len(kept) > 1
    for made, errors in zip(kept, told, strict=False):
        tried = {id(other) for other, _ in errors}
        assert len(tried) == 4 and next(e for other, e in errors if other is made) == min(e for _, e in errors)


def test_it_becomes_a_file(net, tmp_path):
    data = small.data(600, seed=3)
    made = lessen.apply(net, BlockReconstruction(bits=4, steps=20), data)
    path = lessen.write_integers(made, tmp_path / "net.onnx", data)
    session = onnxruntime.InferenceSession(path)
    with torch.no_grad():
        wanted = made(data[0][:8]).numpy()
    found = session.run(None, {session.get_inputs()[0].name: data[0][:8].numpy()})[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("settings", "told"), [({"bits": 1}, "2 to 8"), ({"steps": 0}, "step"), ({"lr": 2.0}, "rate"),
                                                 ({"per": "row"}, "channel")])  # fmt: skip
def test_settings_that_cannot_be(settings, told):
    with pytest.raises(LessenError, match=told):
        AdaRound(**settings)
