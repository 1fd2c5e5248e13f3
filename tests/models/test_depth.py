"""Residual blocks are found in the running network and really removed; what can't go is named."""

import copy

import pytest
import torch
from torch import Tensor, nn

from lessen.demo.network import network
from lessen.errors import LessenError
from lessen.models.depth import find_blocks, is_passed, without_blocks
from lessen.models.surgery import apply_edits

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
