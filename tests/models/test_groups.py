"""Dimension groups: what goes together, what can't go, and why."""

import pytest
import torch
from torch import nn

from lessen.errors import LessenError
from lessen.models.groups import couple, find_groups


def image(c=3, size=8):
    return (torch.randn(2, c, size, size),)


class Add(nn.Module):
    def __init__(self, *branches):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x):
        return sum(b(x) for b in self.branches)


def test_a_chain_has_one_group_for_each_hidden_width():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    grouping = find_groups(net, image())
    (group,) = grouping.groups
    assert (group.name, group.size, group.unit, group.kind) == ("0", 8, 1, "channels")
    assert {(m.path, m.dim) for m in group.members} == {
        ("0.weight", 0),
        ("0.bias", 0),
        ("1.weight", 0),
        ("1.bias", 0),
        ("1.running_mean", 0),
        ("1.running_var", 0),
        ("3.weight", 1),
    }
    assert group.producers == ("0",) and group.consumers == ("3",)


def test_inputs_and_outputs_are_left_with_the_reason():
    grouping = find_groups(nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 4)), (torch.randn(2, 6),))
    reasons = {(left.name, left.dim): left.reason for left in grouping.left}
    assert reasons["1.weight", 0] == "output of the network"
    assert "can't shrink" in reasons["0.weight", 1]


def test_a_sum_ties_its_summands():
    net = nn.Sequential(Add(nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 3, padding=1)), nn.Conv2d(8, 2, 1))
    (group,) = find_groups(net, image()).groups
    assert set(group.producers) == {"0.branches.0", "0.branches.1"}


def test_a_concatenation_keeps_its_parts_apart():
    class Cat(Add):
        def forward(self, x):
            return torch.cat([b(x) for b in self.branches], 1)

    net = nn.Sequential(Cat(nn.Conv2d(3, 8, 1), nn.Conv2d(3, 4, 1)), nn.Conv2d(12, 2, 1))
    a, b = find_groups(net, image()).groups
    assert (a.size, b.size) == (8, 4)
    consumer = next(m for m in b.members if m.path == "1.weight")
    assert consumer.index.ravel().tolist() == [8, 9, 10, 11]


def test_flatten_repeats_channels_over_positions():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4 * 9, 5))
    (group,) = find_groups(net, image(size=3)).groups
    consumer = next(m for m in group.members if m.path == "2.weight")
    assert consumer.index[1].tolist() == list(range(9, 18))


def test_a_depthwise_convolution_belongs_to_its_input():
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 2, 1))
    (group,) = find_groups(net, image()).groups
    assert {m.path for m in group.members if "weight" in m.path} == {"0.weight", "1.weight", "2.weight"}


@pytest.mark.parametrize("groups, units, channels", [(4, 4, 2), (2, 4, 2)])
def test_a_grouped_convolution_has_whole_groups_or_the_same_place_in_each(groups, units, channels):
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=groups), nn.Conv2d(8, 2, 1))
    assert any((g.size, g.unit) == (units, channels) for g in find_groups(net, image()).groups)


def test_the_gates_of_an_lstm_go_together():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.r, self.f = nn.LSTM(5, 6, batch_first=True), nn.Linear(6, 2)

        def forward(self, x):
            return self.f(self.r(x)[0][:, -1])

    (group,) = find_groups(Last(), (torch.randn(2, 4, 5),)).groups
    rows = next(m for m in group.members if m.path == "r.weight_ih_l0")
    assert group.size == 6 and rows.index[0].tolist() == [0, 6, 12, 18]


def test_heads_of_fused_attention():
    grouping = find_groups(nn.TransformerEncoderLayer(16, 4, 8, batch_first=True), (torch.randn(2, 5, 16),))
    heads = grouping["self_attn"]
    assert (heads.kind, heads.size, heads.unit) == ("heads", 4, 12)
    assert heads.members[0].index[1].tolist() == [*range(4, 8), *range(20, 24), *range(36, 40)]


def test_tied_weights_are_one_member():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.e, self.n, self.o = nn.Embedding(9, 8), nn.LayerNorm(8), nn.Linear(8, 9, bias=False)
            self.o.weight = self.e.weight

        def forward(self, i):
            return self.o(self.n(self.e(i)))

    (group,) = find_groups(Tied(), (torch.tensor([[1, 2]]),)).groups
    assert group.kind == "embedding" and group.size == 8
    assert [m.path for m in group.members].count("e.weight") == 1
    assert "native_layer_norm in n" in group.renormalized


def test_an_unknown_operation_holds_what_it_touches_until_it_is_declared():
    @torch.library.custom_op("lessen_test::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.b(torch.ops.lessen_test.twice(self.a(x)))

    before = find_groups(Net(), (torch.randn(2, 4),))
    assert not before.groups and any("couple()" in left.reason for left in before.left)
    couple(torch.ops.lessen_test.twice, lambda x: [x])
    assert [g.name for g in find_groups(Net(), (torch.randn(2, 4),)).groups] == ["a"]


def test_couple_wants_an_operation():
    with pytest.raises(LessenError, match="no operation"):
        couple(torch.relu, lambda x: [x])


def test_the_model_is_left_as_it_was():
    net = nn.Sequential(nn.Linear(4, 8), nn.Dropout(), nn.BatchNorm1d(8), nn.Linear(8, 2)).train()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    torch.manual_seed(3)
    find_groups(net, (torch.randn(4, 4),))
    assert net.training and all(m.training for m in net.modules())
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in state.items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_reachable_is_a_share_of_the_parameters():
    grouping = find_groups(
        nn.Sequential(nn.Linear(4, 8, bias=False), nn.Linear(8, 2, bias=False)), (torch.randn(2, 4),)
    )
    assert grouping.reachable == 1.0
    assert find_groups(nn.Linear(4, 2), (torch.randn(2, 4),)).reachable == 0.0
