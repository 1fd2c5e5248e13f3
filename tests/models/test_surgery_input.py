"""Bad input to structured removal: an error that names the layer, and the network left as it was."""

import copy

import pytest
import torch
from torch import nn

from lessen.errors import LessenError
from lessen.models.groups import couple, find_groups
from lessen.models.surgery import Unprovable, apply_edits, shrink, shrink_with_edits
from lessen.models.surgery.edits import Setting

X = (torch.rand(3, 6, generator=torch.Generator().manual_seed(0)),)


def _net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))


def _same(net: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    now = net.state_dict()
    return now.keys() == before.keys() and all(torch.equal(now[k].nan_to_num(7), before[k].nan_to_num(7)) for k in now)


@pytest.mark.parametrize(
    ("removals", "says"),
    [
        ({"0": list(range(8))}, "all 8 units would go"),
        ({"0": [8]}, "a group of 8"),
        ({"0": [-1]}, "a group of 8"),
        ({"9": [1]}, "no group '9'"),
    ],
)
def test_units_that_can_not_go(removals, says):
    net = _net()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(LessenError, match=says):
        shrink(net, removals, X)
    assert _same(net, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value):
    net = _net()
    with torch.no_grad():
        net[3].weight[1, 2] = value
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(LessenError, match="not finite") as error:
        shrink(net, {"0": [1]}, X)
    assert error.value.where == "3.weight" and _same(net, before)


def test_a_network_in_training_mode_keeps_it_and_its_statistics():
    net = _net().train()
    before = copy.deepcopy(net.state_dict())
    made = shrink(net, {"0": [1, 2]}, X)
    assert _same(net, before) and all(m.training for m in net.modules())
    assert made.training and made[1].running_mean.shape == (6,)
    torch.testing.assert_close(made[1].running_mean, net[1].running_mean[[0, 3, 4, 5, 6, 7]])


def test_frozen_parameters_stay_frozen_and_shared_ones_shared():
    net = nn.ModuleDict({"a": nn.Linear(6, 8), "b": nn.Linear(8, 8), "c": nn.Linear(8, 2)})

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.again, self.c = net["a"], net["b"], nn.Linear(8, 8), net["c"]
            self.again.weight = self.b.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(self.again(self.b(self.a(x).relu()).relu()).relu())

    model = Shared().eval()
    model.a.weight.requires_grad_(False)
    groups = find_groups(model, X)
    name = groups.groups[0].name
    made = shrink(model, {name: [0, 5]}, X, groups)
    assert not made.a.weight.requires_grad and made.c.weight.requires_grad
    assert made.again.weight is made.b.weight and made.b.weight.shape == (6, 6)


def test_a_failure_on_the_way_leaves_the_network_whole():
    class Stubborn(nn.Module):
        """Insists on its width by a number that no edit and no exporter gets at."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.a(x)
            if y.shape[-1] != 8:
                raise ValueError("8 or nothing")
            return self.b(y) if y.sum() < 1e9 else self.b(-y)  # the exporter can't follow a branch on data

    net = Stubborn().eval()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(Unprovable, match="can't remove units") as error:
        shrink_with_edits(net, {"a": [1]}, X)
    assert error.value.where == "a" and _same(net, before)


@pytest.mark.parametrize("value", [(None, 0), ("x",), (0, "many"), 3])
def test_a_strange_setting_is_refused_before_anything_is_done(value):
    with pytest.raises(LessenError):
        apply_edits(_net(), [Setting("2", "passed", value)])


def test_an_operation_of_the_users_own_is_declared_in_three_lines():
    lib = torch.library.Library("lessen_test", "FRAGMENT")
    lib.define("gate(Tensor x, Tensor g) -> Tensor")
    lib.impl("gate", lambda x, g: x * torch.tanh(g), "CompositeExplicitAutograd")

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.g, self.b = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.ops.lessen_test.gate(self.a(x), self.g(x)))

    net = Gated().eval()
    grouping = find_groups(net, X)
    assert not grouping.groups
    assert any("no rule for lessen_test::gate" in left.reason and "couple()" in left.reason for left in grouping.left)

    couple(torch.ops.lessen_test.gate, lambda x, g: [[x[0], (x[1], g[1])]])
    (group,) = find_groups(net, X).groups
    assert {m.path for m in group.members} == {"a.weight", "a.bias", "g.weight", "g.bias", "b.weight"}
    assert shrink(net, {group.name: [0, 3]}, X).b.weight.shape == (2, 6)

    couple(torch.ops.lessen_test.gate, lambda x, g: [[x[0], (x[1], g[1][:4])]])
    with pytest.raises(LessenError, match="different sizes"):
        find_groups(net, X)


class Normed(nn.Module):
    """A weight that is computed from others, beside a size that is written in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 4)
        self.middle = nn.utils.parametrizations.weight_norm(nn.Linear(8, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.middle(self.first(x).relu()).view(-1, 8).relu())


def test_a_norm_over_removed_columns_keeps_its_value_in_a_graph_and_the_original_its_parametrization():
    net = Normed().eval()
    with torch.no_grad():
        net.middle.parametrizations.weight.original0.mul_(torch.linspace(0.5, 2, 8)[:, None])
        grouping, before = find_groups(net, X), copy.deepcopy(net.state_dict())
        names = {g.name: [0, 3, 5] for g in grouping.groups if g.name in ("first", "middle")}
        made = shrink_with_edits(net, names, X, grouping)
        assert set(names) == {"first", "middle"} and made.form == "graph"
        keep = [1, 2, 4, 6, 7]
        hidden = (X[0] @ net.first.weight[keep].T + net.first.bias[keep]).relu()
        hidden = (hidden @ net.middle.weight[keep][:, keep].T + net.middle.bias[keep]).relu()
        assert torch.allclose(made.model(*X), hidden @ net.last.weight[:, keep].T + net.last.bias, atol=1e-5)
    assert _same(net, before) and hasattr(net.middle, "parametrizations")
    assert torch.equal(net(*X), copy.deepcopy(net)(*X))
