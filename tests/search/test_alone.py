"""One structured technique alone, and what it says when nothing can go."""

import copy

import pytest
import torch
from torch import nn

import small
from lessen.errors import LessenError
from lessen.prune.channels import Channels
from lessen.prune.depth import Depth
from lessen.search.alone import structured


class Residual(nn.Module):
    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width, 16), nn.Linear(16, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.outer(self.inner(x).relu())


def _data(features: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(60, features, generator=draw), torch.randint(0, 3, (60,), generator=draw)


def test_channels_alone():
    net = small.trained()
    before = copy.deepcopy(net.state_dict())
    made = structured(net.train(), Channels(0.4), small.data(200))
    assert sum(p.numel() for p in made.parameters()) < 0.8 * sum(p.numel() for p in net.parameters())
    assert net.training and all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_depth_alone():
    net = nn.Sequential(nn.Linear(8, 8), Residual(), Residual(), nn.Linear(8, 3)).eval()
    with torch.no_grad():
        net[2].outer.weight.mul_(1e-3)
        net[2].outer.bias.zero_()  # this block does next to nothing
    made = structured(net, Depth(1), _data())
    with torch.no_grad():
        x = _data()[0]
        assert torch.equal(made(x), net[3](net[1](net[0](x))))


@pytest.mark.parametrize(
    ("technique", "says"),
    [
        (Depth(3), "only 2 of 3 residual blocks"),
        (Channels(0.01), "less than one multiple of channels in every group"),
        (Channels(0.3, "batchnorm_scale"), "batchnorm_scale tells nothing of these groups"),
    ],
)
def test_what_can_not_go_is_said(technique, says):
    net = nn.Sequential(nn.Linear(8, 8), Residual(), Residual(), nn.Linear(8, 3)).eval()
    with pytest.raises(LessenError, match=says):
        structured(net, technique, _data())


def test_a_network_without_structure_is_named():
    net = nn.Linear(8, 3).eval()
    with pytest.raises(LessenError, match="no group of units can shrink"):
        structured(net, Channels(0.3), _data())
    with pytest.raises(LessenError, match="no residual block"):
        structured(net, Depth(1), _data())


def test_not_a_number_in_the_weights_is_an_error():
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    with torch.no_grad():
        net[0].weight[0, 0] = float("nan")
    with pytest.raises(LessenError):
        structured(net, Channels(0.3, "magnitude"), _data())
