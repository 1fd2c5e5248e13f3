"""Heads can become fewer, or all of them narrower: whichever is asked for."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lessen.errors import LessenError
from lessen.job import open_job
from lessen.models.groups import find_groups
from lessen.models.surgery import apply_edits, shrink_with_edits
from lessen.plan import Plan
from lessen.prune.channels import Channels
from lessen.report import Progress
from lessen.search import heads, widths
from lessen.search.prepare import prepared

X = (torch.rand(2, 5, 16, generator=torch.Generator().manual_seed(0)),)


class Attention(nn.Module):
    """Four heads of four, with the scale as a number (as transformers does) or made of the width."""

    def __init__(self, scale: float | None, fused: bool = True) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.head_dim, self.scale, self.fused = 4, scale, fused

    def heads(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], -1, self.head_dim).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(self.q(x)), self.heads(self.k(x)), self.heads(self.v(x))
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        else:
            mixed = (q @ k.transpose(-1, -2) * (self.scale or 0.5)).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("fused", [True, False])
def test_whole_heads_by_default_and_their_width_when_asked(fused):
    net = Attention(0.5, fused).eval()
    (heads,) = find_groups(net, X).groups
    assert (heads.kind, heads.size, heads.unit) == ("heads", 4, 4)
    groups = {g.name: g for g in find_groups(net, X, head_width=True).groups}
    assert {n: (g.size, g.unit) for n, g in groups.items()} == {"q": (4, 4), "v": (4, 4)}
    assert {m.path for m in groups["q"].members} == {"q.weight", "q.bias", "k.weight", "k.bias"}


@pytest.mark.parametrize("removals", [{"q": [1], "v": [3]}, {"q": [0, 2]}, {"v": [0]}])
def test_narrower_heads_are_proved_like_anything_else(removals):
    net = Attention(0.5).eval()
    grouping = find_groups(net, X, head_width=True)
    made = shrink_with_edits(net, removals, X, grouping)  # raises unless it gives what the masked network gives
    sizes = {n: p.shape[0] for n, p in made.model.named_parameters() if n.endswith("weight")}
    assert sizes["q.weight"] == sizes["k.weight"] == 16 - 4 * len(removals.get("q", []))
    assert sizes["v.weight"] == 16 - 4 * len(removals.get("v", []))
    assert made.form == ("module" if len(removals) == 2 else "graph")  # one number for both, or two
    if made.form == "graph":
        with pytest.raises(LessenError, match="Attention has sizes in its code"):
            apply_edits(net, made.edits)


def test_where_the_scale_is_made_of_the_width_whole_heads_are_all_there_is():
    (heads,) = find_groups(Attention(None).eval(), X, head_width=True).groups
    assert heads.kind == "heads" and {m.path for m in heads.members} >= {"q.weight", "k.weight", "v.weight"}


class Encoder(nn.Module):
    """A head of its own around the attention, so that there is something to be right about."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = Attention(0.5), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x).mean(1))


@pytest.fixture(scope="module")
def bench():
    draw = torch.Generator().manual_seed(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Encoder().eval()
    samples = (torch.rand(40, 5, 16, generator=draw), torch.randint(3, (40,), generator=draw))
    job = open_job(net, dict.fromkeys(("calibration", "validation", "test"), samples), "2%", "packed", "channels")
    return job, prepared(job, Progress())


def _widths(module: nn.Module) -> dict[str, int]:
    found = {n.split(".")[-2]: p.shape[0] for n, p in module.named_parameters() if n.endswith("weight")}
    return {n: w for n, w in found.items() if n in ("q", "k", "v")}


def test_fewer_heads_and_narrower_ones_in_one_call(bench):
    job, whole = bench
    removals = {"attention.q": (1, 2), heads.WIDTH + "attention.q": (3,), heads.WIDTH + "attention.v": (0,)}
    plan = Plan.from_yaml(Plan("packed", channels=removals).to_yaml())
    made = widths.removed(job, whole, plan, Progress())
    assert _widths(made.module) == {"q": 6, "k": 6, "v": 6} and made.channels == removals  # 2 heads of 3
    masked = copy.deepcopy(job.model.module)
    refitted = copy.deepcopy(made.module)
    with torch.no_grad():
        kept = [h * 4 + i for h in (0, 3) for i in (0, 1, 2)], [h * 4 + i for h in (0, 3) for i in (1, 2, 3)]
        gone = [sorted(set(range(16)) - set(k)) for k in kept]
        for name, rows in (("q", gone[0]), ("k", gone[0]), ("v", gone[1])):
            masked.attention.get_submodule(name).weight[rows] = 0
            masked.attention.get_submodule(name).bias[rows] = 0
        refitted.attention.out.weight.copy_(masked.attention.out.weight[:, kept[1]])  # without the compensation
        refitted.attention.out.bias.copy_(masked.attention.out.bias)
        assert torch.allclose(refitted(*X), masked(*X), atol=1e-5)
        assert not torch.allclose(made.module(*X), masked(*X), atol=1e-5)  # what reads them was refitted


def test_both_are_ranked_together_and_the_class_takes_the_edits(bench):
    job, whole = bench
    made = widths.narrower(job, whole, Channels(0.5, "taylor", multiple=1, head_width=True), Progress())
    assert {n.startswith(heads.WIDTH) for n in made.channels} == {True, False}
    again = widths.removed(job, whole, Plan("packed", channels=made.channels), Progress())
    assert torch.equal(again.module(*X), made.module(*X))
    sizes = {n: p.shape for n, p in made.module.named_parameters()}
    if not any(getattr(e, "name", "") == "graph" for e in made.edits):
        assert {n: p.shape for n, p in apply_edits(job.model.module, made.edits).named_parameters()} == sizes
    plain = widths.narrower(job, whole, Channels(0.5, "taylor", multiple=1), Progress())
    assert not any(n.startswith(heads.WIDTH) for n in plain.channels)
