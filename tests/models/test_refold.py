"""Rotated and rescaled networks compute the same; what can't be folded is named."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lessen
from lessen import AWQ, LessenError, Statistics, Uniform
from lessen.models import Layer
from lessen.models.rescale import rescaled
from lessen.models.rotate import hadamard, rotated
from zoo.nets import CharacterGPT

TOKENS = torch.randint(0, 20, (24, 16), generator=torch.Generator().manual_seed(0))


def gpt() -> nn.Module:
    """Three heads of eight, with gains and offsets that are not one and zero, and one loud channel."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = CharacterGPT(20, 16, 24, 2, 3).eval()
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.1 * torch.randn_like(p))
            net.tokens.weight[:, 5] += 3
    return net


def outputs(net: nn.Module, x: Tensor = TOKENS) -> Tensor:
    with torch.no_grad():
        return net(x)


@pytest.mark.parametrize("size", [1, 2, 8, 12, 24, 96])
def test_a_rotation_is_orthogonal_keeps_ones_and_spreads_what_stands_out(size: int) -> None:
    R = hadamard(size)
    torch.testing.assert_close(R @ R.T, torch.eye(size, dtype=torch.float64))
    torch.testing.assert_close(R.sum(1), torch.ones(size, dtype=torch.float64))
    if size >= 24:
        assert float(R.abs().max()) < 0.8


def test_the_stream_between_blocks_and_the_values_of_heads_are_rotated(global_seeds_untouched) -> None:
    net = gpt()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    made = rotated(net, (TOKENS[:2],))
    assert made.folded == (
        "tokens (24 channels)", "blocks.0.out (3 heads of 8)", "blocks.1.out (3 heads of 8)"
    )  # fmt: skip
    assert [name for name, _ in made.left] == ["blocks.0.up", "blocks.1.up"]  # GELU lies between
    torch.testing.assert_close(outputs(made.module), outputs(net), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    loud = [float(n.tokens.weight.detach().abs().mean(0).max()) for n in (net, made.module)]
    assert loud[1] < 0.6 * loud[0]
    again = rotated(net, (TOKENS[:2],)).module
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in made.module.state_dict().items())


class PostNorm(nn.Module):
    """The residual sum is taken of the norm's output, gain and all."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.first(x))
        return y + torch.tanh(self.second(y))


def post_norm() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = PostNorm().eval()
        with torch.no_grad():
            net.norm.weight.add_(torch.rand(8))
    return net


def test_where_nothing_can_be_rotated_the_reasons_are_named() -> None:
    with pytest.raises(LessenError, match="norm: not only linear layers read it"):
        rotated(post_norm(), (torch.randn(3, 6, generator=torch.Generator().manual_seed(0)),))


def test_scales_fold_into_norms_values_and_through_relu_not_through_gelu_or_a_residual() -> None:
    net = gpt()
    widths = {n: m.in_features for n, m in net.named_modules() if isinstance(m, nn.Linear)}
    s = {n: torch.rand(w, generator=torch.Generator().manual_seed(1)) + 0.5 for n, w in widths.items()}
    made = rescaled(net, (TOKENS[:2],), lambda names: s[names[0].removesuffix(".weight")])
    assert made.folded == ("blocks.0.qkv", "blocks.0.up", "blocks.1.qkv", "blocks.1.up", "head", "blocks.0.out",
                           "blocks.1.out")  # fmt: skip
    assert {name for name, _ in made.left} == {"blocks.0.down", "blocks.1.down"}
    torch.testing.assert_close(outputs(made.module), outputs(net), rtol=1e-4, atol=1e-4)
    for name in made.folded:
        new, old = (n.get_submodule(name).weight.detach() for n in (made.module, net))
        columns = (new / old).median(0).values
        assert torch.allclose(columns, s[name], rtol=1e-4) or name.endswith("out")  # out's rows are no one's inputs
    plain = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    assert rescaled(plain, (x,), lambda n: torch.linspace(0.5, 2, 6) if n == ["2.weight"] else None).folded == ("2",)
    blocked = rescaled(post_norm(), (torch.randn(3, 6, generator=torch.Generator().manual_seed(0)),),
                       lambda n: torch.full((8,), 2.0) if n == ["second.weight"] else None)  # fmt: skip
    assert blocked.left == (("second", "not only linear layers read norm"),)


def test_activation_aware_scales_lower_the_error_of_rounding_to_nearest() -> None:
    net = gpt()
    with torch.no_grad():
        for block in net.blocks:
            block.norm1.weight[3], block.norm2.weight[7] = 20, 20
            block.qkv.weight[:, 3] /= 10
            block.up.weight[:, 7] /= 10
    made = lessen.activation_aware(net, TOKENS, AWQ(3, 8))
    torch.testing.assert_close(outputs(made.module), outputs(net), rtol=1e-4, atol=1e-4)
    assert {"blocks.0.qkv", "blocks.1.up"} <= set(made.folded)
    nearest = Uniform(3, 8, symmetric=False, feedback=False)
    errors = [
        float((outputs(lessen.apply(n, nearest, TOKENS, where="blocks.*")) - outputs(net)).square().mean())
        for n in (net, made.module)
    ]
    assert errors[1] < 0.8 * errors[0]


def test_awq_finds_the_loud_inputs_and_is_never_worse_than_no_scale() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(400, 16, generator=g) * torch.tensor([30.0] + [1.0] * 15)
    layer, known = Layer("w", "linear", torch.randn(32, 16, generator=g)), Statistics((x.T @ x / len(x))[None])
    s = AWQ(3, "channel").scale([layer], known)
    assert int(s.argmax()) == 0
    assert float(s[0]) > 2 * float(s[1:].max())
    how = AWQ(3, "channel")
    assert how._error(layer.matrix, s, known) <= how._error(layer.matrix, torch.ones(16), known)
    assert torch.equal(how.scale([layer], Statistics(torch.eye(16)[None])), torch.ones(16))


@pytest.mark.parametrize("options", [{"bits": 1}, {"bits": 9}, {"per": "tensor"}, {"per": 0}])
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(LessenError, match="AWQ"):
        AWQ(**options)  # type: ignore[arg-type]


def test_groups_that_do_not_divide_are_refused_by_name() -> None:
    with pytest.raises(LessenError, match="w: 10 columns can't be cut into groups of 4"):
        AWQ(4, 4).scale([Layer("w", "linear", torch.ones(2, 10))], Statistics())


def test_attention_by_hand_is_seen_through() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (f(x).view(*x.shape[:2], 2, 4).transpose(1, 2) for f in (self.q, self.k, self.v))
            mixed = F.softmax(q @ k.transpose(-1, -2) / 2, -1) @ v
            return self.out(mixed.transpose(1, 2).reshape(x.shape))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Attention().eval()
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    made = rotated(net, (x,))
    assert made.folded == ("out (2 heads of 4)",)
    torch.testing.assert_close(outputs(made.module, x), outputs(net, x), rtol=1e-4, atol=1e-5)
    assert not torch.equal(made.module.v.weight, net.v.weight)
    assert torch.equal(made.module.q.weight, net.q.weight)
