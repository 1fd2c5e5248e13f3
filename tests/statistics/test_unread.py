"""Positions that are padding: found by gradients, left out of the second moments."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lessen import Uniform
from lessen.bench import Bench
from lessen.in_turn import realize_in_turn
from lessen.models import trace
from lessen.plan import Treatment
from lessen.statistics import collect
from lessen.statistics.unread import Unread, those_read

Batch = tuple[Tensor, ...]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Sentences(nn.Module):
    """Tokens [n, t] and what hides some of them, to the mean of those that are not hidden."""

    def __init__(self, hides: str = "mask", batch_first: bool = True) -> None:
        super().__init__()
        self.embed, self.hides, self.batch_first = nn.Embedding(50, 16), hides, batch_first
        self.up, self.down = nn.Linear(16, 24), nn.Linear(24, 8)
        for k, p in enumerate(self.parameters()):
            p.data = draw(*p.shape, seed=k) / p.shape[-1] ** 0.5
        self.embed.weight.data[0] = 20.0  # padding is loud

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.embed(ids if self.batch_first else ids.T)
        x = self.down(self.up(x).relu())
        x = x if self.batch_first else x.transpose(0, 1)
        seen = {"mask": mask != 0, "ids": ids != 0, "nothing": ids >= 0}[self.hides].to(x.dtype)[..., None]
        return (x * seen).sum(1) / seen.sum(1)


def batches(count: int = 8, masked: bool = True) -> list[Batch]:
    made = []
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(1, 50, (6, 10), generator=generator)
        lengths = torch.randint(2, 11, (6, 1), generator=generator)
        inside = torch.arange(10) < lengths
        made.append((ids * inside, inside.long() if masked else torch.ones_like(ids)))
    return made


def moments(net: nn.Module, data: list[Batch]) -> dict[str, Tensor]:
    """Of what the two linear layers read at the positions that are no padding."""
    seen: dict[str, list[Tensor]] = {"up.weight": [], "down.weight": []}
    with torch.no_grad():
        for ids, _ in data:
            x = net.embed(ids)[ids != 0]
            seen["up.weight"].append(x)
            seen["down.weight"].append(net.up(x).relu())
    return {n: (x := torch.cat(xs)).T @ x / len(x) for n, xs in seen.items()}


@pytest.mark.parametrize(("hides", "masked", "told"), [("mask", True, Unread(0, 0)), ("ids", False, Unread(0, 0))])
def test_second_moments_are_those_of_what_is_read(hides: str, masked: bool, told: Unread) -> None:
    net, data = Sentences(hides).eval(), batches(masked=masked)
    layers = trace(net, data[0]).layers
    found, wanted = collect(net, layers, data), moments(net, data)
    for name, H in wanted.items():
        assert found[name].unread == told
        torch.testing.assert_close(found[name].H[0], H, rtol=1e-4, atol=1e-4)
        assert found[name].observations == sum(int((ids != 0).sum()) for ids, _ in data)
    assert found["up.weight"].high == 20  # the range is of all that comes in


@pytest.mark.parametrize("net", [Sentences("nothing"), Sentences("mask", batch_first=False)], ids=["read", "by time"])
def test_nothing_is_left_out_where_no_input_tells_it_exactly(net: Sentences) -> None:
    data = batches()
    found = collect(net.eval(), trace(net, data[0]).layers, data)
    assert found["up.weight"].unread is None and found["up.weight"].observations == 8 * 60
    assert found["up.weight"].high == 20


def test_one_sample_at_a_time_tells_nothing() -> None:
    """Rows of one sample look the same, whichever of batch and time comes first."""
    net, data = Sentences().eval(), [(i[:1], m[:1]) for i, m in batches()]
    assert collect(net, trace(net, data[0]).layers, data)["up.weight"].unread is None


def test_layers_in_turn_leave_padding_out() -> None:
    """Rounding spends its care on what is read: the outputs are nearer to the float network's."""
    net, data = Sentences().eval(), batches(24)
    traced = trace(net, data[0])
    lost = {}
    for fisher in (0, 32):  # without the backward pass nothing is known of padding
        bench = Bench(net, traced, collect(net, traced.layers, data, fisher=fisher))
        treatments = {n: Treatment(Uniform(3)) for n in ("up.weight", "down.weight")}
        made = realize_in_turn(bench, treatments, data).module
        with torch.no_grad():
            lost[fisher] = sum(float((made(*b) - net(*b)).square().mean()) for b in batches(32)[24:])
    assert lost[32] < 0.8 * lost[0]


def test_rows_of_another_number_are_all_kept() -> None:
    x = draw(6, 3)
    assert those_read(x, None) is x and those_read(x, torch.ones(4, dtype=torch.bool)) is x
    assert torch.equal(those_read(x, torch.tensor([1, 0, 1, 0, 0, 0]).bool()), x[[0, 2]])
