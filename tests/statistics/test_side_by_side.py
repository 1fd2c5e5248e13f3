"""Two networks side by side: what is visited, what is seen there, and the correction against dense linear algebra."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn

from lessen.models import Layer
from lessen.statistics.columns import Convolution, observations, patches
from lessen.statistics.side_by_side import Drift, side_by_side


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layers_of(net: nn.Module) -> list[Layer]:
    kinds = {nn.Linear: "linear", nn.Conv2d: "conv", nn.Embedding: "embedding"}
    return [Layer(f"{n}.weight", kinds[type(m)], m.weight.detach(), groups=getattr(m, "groups", 1))
            for n, m in net.named_modules() if type(m) in kinds]  # fmt: skip


def filled(net: nn.Module) -> nn.Module:
    for k, p in enumerate(net.parameters()):
        p.data = draw(*p.shape, seed=k) / max(p[0].numel(), 1) ** 0.5
    return net


class Net(nn.Module):
    """An embedding, a shared weight, and layers in an order that is not that of their definition."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.first = nn.Linear(8, 3), nn.Linear(6, 8)
        self.twice, self.table = nn.Linear(8, 8), nn.Embedding(9, 6)

    def forward(self, tokens: Tensor) -> Tensor:
        x = torch.tanh(self.first(self.table(tokens)))
        return self.last(self.twice(torch.tanh(self.twice(x))))


def twins(make: type[nn.Module] = Net) -> tuple[nn.Module, nn.Module]:
    return filled(make()), filled(make())


def tokens(seed: int = 0) -> Tensor:
    return torch.randint(0, 9, (5, 4), generator=torch.Generator().manual_seed(seed))


def test_it_visits_what_runs_once_in_the_order_of_the_network() -> None:
    net, twin = twins()
    seen: list[str] = []
    visited = side_by_side(net, twin, layers_of(net), [tokens(), tokens(1)], lambda layer, d: seen.append(layer.name))
    assert visited == tuple(seen) == ("first.weight", "last.weight")
    assert net.training and all(p.requires_grad for p in (*net.parameters(), *twin.parameters()))


def test_a_visitor_sees_both_inputs_and_what_it_changes_is_what_later_layers_read() -> None:
    net, twin = twins()
    drifts: dict[str, Drift] = {}

    def visit(layer: Layer, drift: Drift) -> None:
        drifts[layer.name] = drift
        if layer.name == "first.weight":
            twin.first.weight.mul_(0.5)

    batches = [tokens(), tokens(1)]
    side_by_side(net, twin, layers_of(net), batches, visit)
    with torch.no_grad():
        every = torch.cat(batches)
        x, z = (n.twice(torch.tanh(n.twice(torch.tanh(n.first(n.table(every)))))).flatten(0, 1) for n in (net, twin))
    got = drifts["last.weight"]
    assert got.observations == len(x) == 40
    assert torch.allclose(got.Z[0], z.T @ z / 40, atol=1e-6) and torch.allclose(got.C[0], x.T @ z / 40, atol=1e-6)
    assert torch.allclose(got.x[0], x.mean(0), atol=1e-6) and torch.allclose(got.z[0], z.mean(0), atol=1e-6)
    assert not torch.allclose(got.Z, drifts["last.weight"].C)
    assert torch.equal(drifts["first.weight"].Z, drifts["first.weight"].C)


def test_convolutions_are_seen_at_the_same_positions_on_both_sides() -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Conv2d(4, 8, 3, padding=1, groups=2), nn.ReLU(), nn.Conv2d(8, 4, 3, stride=2))

    net, twin = filled(make()), filled(make())
    drifts: list[Drift] = []
    names = side_by_side(net, twin, layers_of(net), [draw(3, 4, 40, 40)], lambda layer, d: drifts.append(d))
    assert names == ("0.weight", "2.weight")
    assert drifts[0].Z.shape == (2, 18, 18) and drifts[1].Z.shape == (1, 72, 72)
    assert all(torch.equal(d.Z, d.C) for d in drifts)


@pytest.mark.parametrize(
    "how",
    [
        Convolution((1, 1), (0, 0), (1, 1), False, (0, 0), 1),
        Convolution((2, 1), (1, 2), (2, 1), False, (0, 0), 2),
        Convolution((2, 3), (1, 0), (1, 2), True, (1, 2), 1),
    ],
)
@pytest.mark.parametrize("size", [7, 40])  # all positions, and a sample of them
def test_how_many_patches_there_are_is_known_beforehand(how: Convolution, size: int) -> None:
    x = draw(3, 4, size, size + 2)
    taken = patches(x, (3, 2), how, 8, torch.Generator().manual_seed(0))
    assert observations(x, (3, 2), how, 8) == taken.shape[1] > 0


@pytest.mark.parametrize("groups", [1, 2])
def test_the_correction_is_the_least_squares_with_a_ridge_towards_the_weight(groups: int) -> None:
    n, c, rows = 4000, 12, 6
    x = draw(groups, n, c)
    z = x + 0.3 * draw(groups, n, c, seed=1) + 0.2 * x.roll(1, 2)
    W = draw(rows, c, seed=2)
    drift = Drift.of(zip(x.split(1000, 1), z.split(1000, 1), strict=True), n)
    got = drift.corrected(W).reshape(groups, -1, c).double()
    ridge = 0.01 * drift.Z.double().diagonal(dim1=1, dim2=2).mean(-1)
    for g in range(groups):
        w = W.reshape(groups, -1, c)[g].double()
        stacked = torch.cat([z[g].double(), (n * ridge[g]).sqrt() * torch.eye(c, dtype=torch.float64)])
        wanted = torch.linalg.lstsq(stacked, torch.cat([x[g].double() @ w.T, (n * ridge[g]).sqrt() * w.T])).solution.T
        assert torch.allclose(got[g], wanted, atol=1e-4)
        before, after = ((x[g].double() @ w.T - z[g].double() @ v.T).square().mean() for v in (w, got[g]))
        assert after < 0.75 * before


def test_without_drift_nothing_is_corrected() -> None:
    x = draw(1, 500, 7)
    W = draw(3, 7, seed=1)
    assert torch.allclose(Drift.of([(x, x)], 500).corrected(W), W, atol=1e-6)
    assert torch.equal(Drift.of([(x * 0, x * 0)], 500).corrected(W), W)


def test_an_error_inside_the_network_comes_out_and_no_thread_stays_behind() -> None:
    net, twin = twins()
    before = threading.active_count()

    def refuse(layer: Layer, drift: Drift) -> None:
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        side_by_side(net, twin, layers_of(net), [tokens(), tokens(1)], refuse)
    with pytest.raises(IndexError):
        side_by_side(net, twin, layers_of(net), [tokens(), tokens() + 7], lambda layer, d: None)
    assert threading.active_count() == before
    assert side_by_side(net, twin, layers_of(net), [], refuse) == ()


class InPlace(nn.Module):
    """Two layers that read the same memory with something else in it, two that really read the same."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(6, 6, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1.0
        first = self.a(x)
        x.relu_()
        return first + self.b(x) + self.c(x)


def test_memory_that_was_written_over_is_looked_at_again() -> None:
    net, twin = twins(InPlace)
    x, drifts = draw(32, 6), {}
    side_by_side(net, twin, layers_of(net), [x], lambda layer, d: drifts.update({layer.name: d}))
    for name, read in (("a", x), ("b", x.relu()), ("c", x.relu())):
        assert torch.allclose(drifts[f"{name}.weight"].Z[0], read.T @ read / 32, atol=1e-6)
    assert drifts["b.weight"] is drifts["c.weight"]
