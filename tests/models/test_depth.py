"""Residual blocks are found in the running network and really removed; what can't go is named."""

import copy

import pytest
import torch
from torch import Tensor, nn

from lessen.demo.network import network
from lessen.errors import LessenError
from lessen.models.depth import find_blocks, find_removable, is_passed, without_blocks
from lessen.models.surgery import apply_edits
from zoo.nets import CharacterGPT

IMAGES = (torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0)),)


class PostNorm(nn.Module):
    """x + f(x), normalized; gives a tuple as transformer layers do, and takes the residual as its second argument."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.inner, self.mix, self.norm = nn.Linear(width, 16), nn.Linear(16, width), nn.LayerNorm(width)

    def forward(self, hidden: Tensor, residual: Tensor) -> tuple[Tensor, None]:
        return self.norm(residual + self.mix(self.inner(hidden).relu())), None


class Net(nn.Module):
    def __init__(self, extra: bool = False) -> None:
        super().__init__()
        self.first, self.read, self.last = PostNorm(), nn.Linear(8, 8), PostNorm()
        self.extra = extra

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x, residual=x)[0]
        y = self.last(self.read(y), y)[0]
        return self.last(y, y)[0] if self.extra else y


def test_the_blocks_of_a_resnet_are_those_with_an_identity_beside_them():
    blocks, left = find_blocks(network(), IMAGES)
    assert [b.name for b in blocks] == ["blocks.0", "blocks.1", "blocks.3", "blocks.5"] and not left
    assert all(b.place == 0 and b.outputs == 0 for b in blocks)


def test_without_a_block_its_input_goes_on_and_its_weights_are_gone():
    net = network()
    before = copy.deepcopy(net.state_dict())
    made = without_blocks(net, ["blocks.1", "blocks.5"], IMAGES)
    with torch.no_grad():
        x = net.stem(*IMAGES)
        for i in (0, 2, 3, 4):
            x = net.blocks[i](x)
        assert torch.equal(made.model(*IMAGES), net.head(x.mean((2, 3))))
    assert sum(p.numel() for p in made.model.parameters()) == sum(p.numel() for p in net.parameters()) - 4672 - 73984
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert torch.equal(apply_edits(net, made.edits)(*IMAGES), made.model(*IMAGES))


def test_the_residual_is_told_from_the_other_argument_and_what_only_the_block_read_goes_too():
    net, x = Net().eval(), torch.rand(3, 8)
    found = {b.name: b for b in find_blocks(net, (x,))[0]}
    assert found["first"].place == 0 and found["last"].place == 1 and found["first"].outputs == 2
    made = without_blocks(net, ["last"], (x,)).model
    with torch.no_grad():
        assert torch.equal(made(x), net.first(x, residual=x)[0])
    assert is_passed(made.read)  # nothing reads it any more


def test_what_runs_twice_is_left_with_the_reason():
    blocks, left = find_blocks(Net(extra=True).eval(), (torch.rand(3, 8),))
    assert [b.name for b in blocks] == ["first"] and left == {"last": "it runs more than once"}


@pytest.mark.parametrize("name", ["blocks.2", "nothing"])
def test_what_is_no_block_is_refused_by_name(name):
    with pytest.raises(LessenError, match=f"'{name}' is no residual block"):
        without_blocks(network(), [name], IMAGES)


def test_a_shallower_network_is_a_smaller_and_equal_file(tmp_path):
    pytest.importorskip("onnxruntime")
    from lessen.models import fold_batchnorm
    from lessen.targets import OnnxRuntime, float_onnx

    sizes = []
    for net in (network(), without_blocks(network(), ["blocks.1", "blocks.3", "blocks.5"], IMAGES).model):
        folded, _ = fold_batchnorm(net, IMAGES)
        path = OnnxRuntime().export(float_onnx(folded, IMAGES), tmp_path / f"{len(sizes)}.onnx", None, {})
        sizes.append(path.stat().st_size)
        with torch.no_grad():
            assert torch.allclose(torch.as_tensor(OnnxRuntime().session(path)(IMAGES)[0]), net(*IMAGES), atol=1e-4)
    assert sizes[1] < 0.6 * sizes[0]


class PreNorm(nn.Module):
    """Attention and feed-forward that each add to the stream: one a module that gives a tuple, one scaled, in line."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.up, self.down, self.scale = nn.Linear(width, 20), nn.Linear(20, width), nn.Parameter(torch.full((8,), 0.5))

    def attend(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        return self.attention(y, y, y, need_weights=False)[0]

    def feed(self, x: Tensor) -> Tensor:
        return self.scale * self.down(nn.functional.gelu(self.up(self.norm2(x))))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(x)
        return x + self.feed(x)


WORDS = (torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1)),)


@pytest.mark.parametrize(("name", "left"), [("1.attention", "feed"), ("1.down", "attend")])
def test_attention_and_feed_forward_of_a_pre_norm_layer_can_go_alone(name, left):
    net = nn.Sequential(nn.Linear(8, 8), PreNorm(), PreNorm()).eval()
    before = copy.deepcopy(net.state_dict())
    found = {b.name: b for b in find_removable(net, WORDS)[0]}
    assert set(found) == {f"{i}{part}" for i in (1, 2) for part in ("", ".attention", ".down")}
    made = without_blocks(net, [name], WORDS)
    with torch.no_grad():
        x = net[0](*WORDS)
        expected = net[2](x + getattr(net[1], left)(x))
        assert torch.allclose(made.model(*WORDS), expected, atol=1e-6)
        assert torch.equal(apply_edits(net, made.edits)(*WORDS), made.model(*WORDS))
    gone = sum(p.numel() for p in net.parameters()) - sum(p.numel() for p in made.model.parameters())
    assert gone == found[name].parameters > 16 and all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_projections_that_only_a_removed_attention_read_are_gone_from_the_file_too(tmp_path):
    pytest.importorskip("onnxruntime")
    from lessen.targets import OnnxRuntime, float_onnx

    net, tokens = CharacterGPT(20, context=8, width=16, depth=2, heads=2).eval(), (torch.arange(16).view(2, 8),)
    names = ["blocks.0.out", "blocks.1.down"]
    alone = {b.name: b.alone for b in find_removable(net, tokens)[0]}
    assert alone["blocks.0.out"] == ("blocks.0.norm1", "blocks.0.qkv")
    made = without_blocks(net, names, tokens).model
    assert all(is_passed(made.get_submodule(n)) for name in names for n in (name, *alone[name]))
    path = OnnxRuntime().export(float_onnx(made, tokens), tmp_path / "short.onnx", None, {})
    with torch.no_grad():
        assert torch.allclose(torch.as_tensor(OnnxRuntime().session(path)(tokens)[0]), made(*tokens), atol=1e-5)
    whole = OnnxRuntime().export(float_onnx(net, tokens), tmp_path / "whole.onnx", None, {})
    assert whole.stat().st_size - path.stat().st_size > 4 * (4 * 16 * 16 + 8 * 16 * 16)


class NoStream(nn.Module):
    """Sums that are no residual: of two branches, and with the branch also read elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x) + self.b(x)
        z = self.c(y)
        return (y + z) * z.relu()


def test_a_summand_must_come_from_the_stream_it_is_added_to_and_count_nowhere_else():
    assert find_removable(NoStream().eval(), WORDS) == ((), {})
