"""Heads can become fewer, or all of them narrower: whichever is asked for."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lessen.errors import LessenError
from lessen.models.groups import find_groups
from lessen.models.surgery import apply_edits, shrink_with_edits

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
