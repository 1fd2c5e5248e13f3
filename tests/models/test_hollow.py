"""The analysis computes no products, unless the network's code looks at what comes out of one."""

import pytest
import torch
from torch import Tensor, nn

from lessen.models.groups import find_groups
from lessen.models.groups.hollow import Hollow, Looked
from lessen.models.groups.trace import record
from lessen.models.surgery import shrink

X = (torch.rand(3, 2, 8, 8, generator=torch.Generator().manual_seed(0)),)


class Net(nn.Module):
    def __init__(self, look: str = "") -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(2, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, padding=1, groups=2), nn.Linear(6, 4)
        self.look = look

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x).relu()).mean((2, 3))
        if self.look == "branch" and x.abs().sum() == 0:
            return x
        if self.look == "mask":
            x = x[(x != 0).all(1)]
        if self.look == "pick":
            x = x[x.sum(1).argsort()]
        return self.c(x)


def _ops(net: nn.Module) -> list[str]:
    return [op.func._schema.name for op in record(net, X).ops]


def test_products_are_zeros_of_the_right_shape():
    hollow, x = Hollow(), torch.rand(2, 4, 9, 7)
    for conv in (nn.Conv2d(4, 6, 3, 2, 1), nn.Conv2d(4, 8, (3, 1), dilation=(2, 1), groups=4), nn.Conv2d(4, 4, 1)):
        args = (x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, False, [0, 0], conv.groups)
        made = hollow.product(torch.ops.aten.convolution.default, args)
        assert made.shape == conv(x).shape and not made.any()
    a, b = torch.rand(3, 4), torch.rand(4, 5)
    assert hollow.product(torch.ops.aten.mm.default, (a, b)).shape == (3, 5)
    assert hollow.product(torch.ops.aten.addmm.default, (torch.rand(5), a, b)).shape == (3, 5)
    assert hollow.product(torch.ops.aten.addmm.default, (torch.rand(3, 1), a, b)) is None  # computed after all
    assert hollow.product(torch.ops.aten.mm.default, (a.long(), b)) is None


@pytest.mark.parametrize("look", ["branch", "mask", "pick"])
def test_code_that_looks_at_values_sees_the_real_ones(look):
    plain, looking = _ops(Net()), _ops(Net(look))
    assert len(looking) > len(plain) and looking[-1] == plain[-1]  # it went the way that real values take
    net = Net(look).eval()
    name = find_groups(net, X).groups[0].name
    assert sum(p.numel() for p in shrink(net, {name: [0]}, X).parameters()) < sum(p.numel() for p in net.parameters())


def test_what_is_looked_at_is_told_by_the_operation():
    hollow, x = Hollow(), torch.rand(3)
    assert hollow.spread(torch.ops.aten.relu.default, True, (x,))
    assert not hollow.spread(torch.ops.aten.relu.default, False, (x,))
    for func, out in ((torch.ops.aten._local_scalar_dense.default, ()), (torch.ops.aten.gt.Scalar, (x > 0,))):
        with pytest.raises(Looked):
            hollow.spread(func, True, out)


def test_the_trace_is_that_of_a_real_forward(monkeypatch):
    hollow = _ops(Net())
    monkeypatch.setattr("lessen.models.groups.trace.Hollow", lambda: None)
    assert hollow == _ops(Net())
