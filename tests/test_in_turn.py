"""Layers coded one after the other, each making up for those before it."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import lessen
from lessen import KMeans, OptimalBrain, Uniform
from lessen.bench import Bench, realize
from lessen.data import load_data
from lessen.in_turn import TOLD, makes_up, realize_in_turn, under_way
from lessen.models import trace
from lessen.plan import Treatment
from lessen.statistics import collect


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def dense() -> nn.Module:
    layers: list[nn.Module] = []
    for _ in range(6):
        layers += [nn.Linear(48, 48), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(48, 10, bias=False))


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1, groups=2), nn.ReLU(),
        nn.Conv2d(16, 16, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


NETS = {"dense": (dense, (48,)), "convolutional": (convolutional, (3, 16, 16))}


def bench_of(name: str) -> tuple[Bench, list[Tensor], Tensor]:
    make, shape = NETS[name]
    with torch.random.fork_rng():
        net = make().eval()
    for k, p in enumerate(net.parameters()):
        p.data = draw(*p.shape, seed=k) * (2 / p[0].numel()) ** 0.5 if p.ndim > 1 else 0.1 * draw(*p.shape, seed=k)
    mix = torch.eye(shape[-1]) + 0.5 * draw(shape[-1], shape[-1], seed=50) / shape[-1] ** 0.5
    batches = list((draw(512, *shape, seed=51) @ mix).split(128))
    traced = trace(net, (batches[0][:2],))
    return Bench(net, traced, collect(net, traced.layers, batches, fisher=0)), batches, draw(256, *shape, seed=52) @ mix


def distance(net: nn.Module, other: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float((net(x) - other(x)).square().mean() / net(x).square().mean())


@pytest.mark.parametrize("technique", [Uniform(2, symmetric=False), OptimalBrain(sparsity=0.7)], ids=repr)
@pytest.mark.parametrize("name", NETS)
def test_on_unseen_data_it_is_better_than_each_layer_alone(name: str, technique: object) -> None:
    bench, batches, unseen = bench_of(name)
    treatments = {x.name: Treatment(technique) for x in bench.traced.layers}
    alone = distance(bench.module, realize(bench, treatments).module, unseen)
    made = realize_in_turn(bench, treatments, batches)
    assert distance(bench.module, made.module, unseen) < 0.9 * alone
    for layer in bench.traced.layers:  # what is in the network is what the codings hold
        held = made.module.get_parameter(layer.name)
        assert torch.equal(held, layer.from_matrix(made.codings[layer.name].decode()))


@pytest.mark.usefixtures("global_seeds_untouched")
def test_it_is_deterministic_and_leaves_the_network_alone() -> None:
    bench, batches, _ = bench_of("dense")
    before = copy.deepcopy(bench.module.state_dict())
    treatments = {x.name: Treatment(Uniform(3)) for x in bench.traced.layers[1:]}
    treatments[bench.traced.layers[0].name] = Treatment()
    made = [realize_in_turn(bench, treatments, batches) for _ in range(2)]
    states = [m.module.state_dict() for m in made]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert all(torch.equal(v, before[k]) for k, v in bench.module.state_dict().items())
    first = bench.traced.layers[0].name
    assert first not in made[0].codings and torch.equal(states[0][first], before[first])
    assert made[0].treatments == treatments and first in made[0].why


def test_what_is_not_coded_is_the_copy_s_own_afterwards() -> None:
    bench, batches, _ = bench_of("dense")
    layers = bench.traced.layers
    made = realize_in_turn(bench, {layers[1].name: Treatment(Uniform(3))}, batches).module
    for layer in layers:
        mine, held = bench.module.get_parameter(layer.name), made.get_parameter(layer.name)
        assert mine.data_ptr() != held.data_ptr() and torch.equal(mine, held) is (layer is not layers[1])


def test_a_layer_that_the_data_never_passes_alone_is_coded_all_the_same() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.twice, self.last = nn.Linear(8, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.twice(torch.relu(self.twice(x))))

    net, x = Shared().eval(), draw(64, 8)
    for k, p in enumerate(net.parameters()):
        p.data = draw(*p.shape, seed=k)
    traced = trace(net, (x[:2],))
    bench = Bench(net, traced, collect(net, traced.layers, [x], fisher=0))
    made = realize_in_turn(bench, {n.name: Treatment(Uniform(4)) for n in traced.layers}, [x])
    assert set(made.codings) == {"twice.weight", "last.weight"}
    assert torch.equal(made.module.twice.weight, made.codings["twice.weight"].decode())


def test_it_is_an_option_of_apply() -> None:
    bench, _, unseen = bench_of("dense")
    data = [(b,) for b in draw(4096, 48, seed=60).split(512)]
    alone, turned = (lessen.apply(bench.module, Uniform(2, symmetric=False), data, in_turn=t) for t in (False, True))
    assert distance(bench.module, turned, unseen) < 0.9 * distance(bench.module, alone, unseen)


@pytest.mark.parametrize(
    ("technique", "coarse"),
    [(Uniform(8), False), (Uniform(7), True), (KMeans(16), True), (OptimalBrain(0.5), True), (None, False)],
)
def test_what_leaves_errors_to_make_up_for(technique: object, coarse: bool) -> None:
    bench, _, _ = bench_of("dense")
    first, last = bench.traced.layers[0].name, bench.traced.layers[-1].name
    assert makes_up(bench, {first: Treatment(Uniform(8)), last: Treatment(technique)}) is coarse


def test_a_layer_tells_how_it_was_coded_and_what_was_simpler_than_promised() -> None:
    bench, batches, _ = bench_of("dense")
    names = [x.name for x in bench.traced.layers]
    made = realize_in_turn(bench, {n: Treatment(Uniform(3)) for n in names[:2]}, batches)
    assert made.why == dict.fromkeys(names[:2], TOLD)


def test_wide_layers_are_shown_fewer_samples() -> None:
    bench, _, _ = bench_of("convolutional")
    part = load_data([(draw(2000, 3, 16, 16),)]).calibration
    assert under_way(bench, part).n == part.n
    layers = tuple(replace(x, macs=10_000 * x.macs) for x in bench.traced.layers)
    assert 16 <= under_way(replace(bench, traced=replace(bench.traced, layers=layers)), part).n < part.n
