"""Activations that wait in a file: what is read afterwards is what was there before."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lessen.models import Layer
from lessen.statistics import aside
from lessen.statistics.aside import Aside
from lessen.statistics.side_by_side import Drift, side_by_side


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def keys_of(away: Aside, *tensors: Tensor) -> list[int]:
    return [k for t in tensors if (k := away.note(t)) is not None]


def test_every_view_reads_what_was_there_before() -> None:
    with Aside([]) as away:
        x = draw(600, 600)
        view, wanted = x[3:].t(), x.clone()
        keys = keys_of(away, x, view)
        assert len(set(keys)) == 1
        away.put(keys)
        assert x.untyped_storage().nbytes() == 0
        assert away.fetch(keys_of(away, view)) == set(keys)
        assert torch.equal(x, wanted) and torch.equal(view, wanted[3:].t())


def test_what_still_lives_in_the_end_is_in_memory() -> None:
    with Aside([]) as away:
        x = draw(600, 600)
        away.put(keys_of(away, x))
    assert torch.equal(x, draw(600, 600))


def test_what_numpy_looks_at_stays() -> None:
    with Aside([]) as away:
        x = draw(600, 600)
        seen = x.numpy()
        away.put(keys_of(away, x))
        assert (seen == draw(600, 600).numpy()).all()


def test_what_was_written_over_is_kept_as_it_is_now() -> None:
    with Aside([]) as away:
        x = draw(600, 600)
        for n in range(3):
            keys = keys_of(away, x)
            away.written(away.fetch(keys))
            x.fill_(n)
            away.put(keys)
        with away.lent(x):
            assert bool((x == 2).all())
        assert x.untyped_storage().nbytes() == 0


def test_small_tensors_and_the_network_stay() -> None:
    weight = draw(600, 600)
    with Aside([weight]) as away:
        assert keys_of(away, weight, weight.t(), draw(10)) == []


def test_places_of_what_is_gone_are_used_again() -> None:
    with Aside([]) as away:
        for n in range(5):
            x = draw(600, 600, seed=n)
            away.put(keys_of(away, x))
        assert away._end == x.nelement() * 4


def test_a_full_disk_is_answered_with_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    with Aside([]) as away:
        x = draw(600, 600)
        away.put(keys_of(away, x))
        assert torch.equal(x, draw(600, 600))


class Crossing(nn.Module):
    """Values read again after several layers, views, an edit in place, numpy, and a value kept between two runs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(32, 32) for _ in range(3))
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.a(x)) + x
        z = self.b(y[:, 1:])
        if self.kept is None or len(self.kept) != len(x):
            self.kept = torch.ones_like(z) * 0.5
        z = z * self.kept
        z.add_(torch.from_numpy(y.numpy()[:, :-1]) if not y.requires_grad else y[:, :-1])
        pictures = self.conv(z[:, None]).mean(1)
        return self.c(torch.cat([pictures, z], 1))


@pytest.mark.parametrize("least", [1, 2**40], ids=["all of it", "nothing"])
def test_networks_side_by_side_see_the_same(least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With everything set aside, the moments are those that are worked out from stored activations."""
    monkeypatch.setattr(aside, "LEAST", least)
    nets = [Crossing(), Crossing()]
    for net in nets:
        for k, p in enumerate(net.parameters()):
            p.data = draw(*p.shape, seed=k) / 5
    layers = [
        Layer(f"{n}.weight", "conv" if n == "conv" else "linear", m.weight.detach())
        for n, m in nets[0].named_children()
    ]
    batches, drifts = [draw(6, 9, 32), draw(4, 9, 32, seed=1)], dict[str, Drift]()

    def visit(layer: Layer, drift: Drift) -> None:
        drifts[layer.name] = drift
        nets[1].get_parameter(layer.name).mul_(0.9)

    assert side_by_side(*nets, layers, batches, visit) == ("a.weight", "b.weight", "conv.weight", "c.weight")
    for net in nets:
        assert net.kept is not None and torch.equal(net.kept, torch.full((4, 8, 32), 0.5))
    seen: dict[int, list[Tensor]] = {0: [], 1: []}
    for n, net in enumerate(nets):
        net.c.register_forward_pre_hook(lambda m, args, n=n: seen[n].append(args[0].detach().reshape(-1, 32)))
        for batch in batches:
            net(batch)
    x, z = torch.cat(seen[0]), torch.cat(seen[1])
    assert torch.allclose(drifts["c.weight"].Z[0], z.T @ z / len(z), atol=1e-5)
    assert torch.allclose(drifts["c.weight"].C[0], x.T @ z / len(z), atol=1e-5)
    assert drifts["a.weight"].observations == 10 * 9


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="reads /proc")
def test_no_file_stays_open() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with Aside([]) as away:
        x = draw(600, 600)
        away.put(keys_of(away, x))
    assert len(list(Path("/proc/self/fd").iterdir())) == before
