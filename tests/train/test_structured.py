"""Learned pruning of structures: gates that are removals when closed, a budget that holds, and shapes that shrink."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import lessen
import small
from lessen import Compression, LessenError, StructuredL0, StructuredMovement
from lessen.data import load_data, split
from lessen.demo.network import network
from lessen.models import trace
from lessen.models.groups import find_groups, readers
from lessen.models.surgery import shrink
from lessen.train import Lesson
from lessen.train.gate_saliency import saliency
from lessen.train.gates import Gates
from lessen.train.structured_l0 import threshold
from zoo.nets import CharacterGPT

KINDS = (StructuredL0, StructuredMovement)
DATA = load_data(small.data(300, seed=4), sizes=split.lessons)
X, Y = small.data(400, seed=6)
IMAGES = (torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0)),)


@pytest.fixture(scope="module")
def net():
    return small.trained()


def lesson_for(net: nn.Module, seed: int = 0) -> Lesson:
    return Lesson(net, trace(net, (X[:2],)).layers, DATA.calibration, seed=seed)


def fitted(net: nn.Module, method, seed: int = 0):
    student = copy.deepcopy(net)
    return student, method.fit(student, lesson_for(net, seed))


def macs(net: nn.Module) -> int:
    return trace(net, (X[:2],)).macs


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = (
            nn.LSTM(4, 6, batch_first=True),
            nn.GRU(6, 5, batch_first=True),
            nn.Linear(5, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.second(self.first(x)[0])[0][:, -1])


class Joined(nn.Module):
    """Two producers read side by side, one of them grouped, and a gate made of a mean over places."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(1, 8, 3), nn.Conv2d(1, 4, 3), nn.Conv2d(12, 8, 3, groups=4)
        self.squeeze, self.excite, self.out = nn.Linear(8, 4), nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.c(torch.cat([self.a(x).sigmoid(), self.b(x)], 1))
        y = y * self.excite(self.squeeze(y.mean((2, 3))).relu()).sigmoid()[:, :, None, None]
        return self.out(y.amax((2, 3)))


NETS = {
    "residual": (network, IMAGES),
    "heads": (lambda: CharacterGPT(20, context=8, width=16, depth=2, heads=4).eval(), (torch.arange(16).view(2, 8),)),
    "recurrent": (lambda: Recurrent().eval(), (torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(1)),)),
    "joined": (lambda: Joined().eval(), (IMAGES[0][..., :12, :12],)),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
@torch.no_grad()
def test_closed_gates_compute_what_the_narrower_network_computes(name) -> None:
    made, inputs = NETS[name]
    net = made()
    grouping, twin = find_groups(net, inputs), copy.deepcopy(net)
    read, _ = readers(grouping)
    assert read
    closed = {n: list(range(0, grouping[n].size, 2)) for n in read}
    for group, members in read.items():
        for m in members:
            twin.get_parameter(m.path).index_fill_(m.dim, torch.as_tensor(m.index)[closed[group]].flatten(), 0)
    narrow = shrink(net, closed, inputs, grouping)
    assert torch.allclose(twin(*inputs), narrow(*inputs), atol=1e-5)
    assert not torch.allclose(twin(*inputs), net(*inputs), atol=1e-3)


def test_what_counts_its_units_is_left_with_the_reason() -> None:
    made, inputs = NETS["heads"]
    read, left = readers(find_groups(made(), inputs))
    assert {"blocks.0.qkv", "blocks.0.up"} <= set(read)
    assert left == {"tokens": "statistics are computed over them (native_layer_norm in blocks.0.norm1)"}


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_the_student_with_zeros_is_the_network_that_comes_out_and_the_budget_holds(net, kind) -> None:
    student, told = fitted(net, kind(0.6, epochs=1, lr=3e-3, batch_size=32))
    assert told.module is not None
    assert torch.allclose(student(X), told.module(X), atol=1e-4)
    assert 0.3 < macs(told.module) / macs(net) <= 0.4 == pytest.approx(0.4)
    sizes = [p.numel() for p in told.module.parameters()]
    assert sum(sizes) < 0.75 * sum(p.numel() for p in net.parameters())
    groups = find_groups(net, (X[:2],))
    assert {n: groups[n].size - len(u) for n, u in told.removed.items() if n == "9"} == {
        "9": told.module[9].out_features
    }


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_twice_the_same_and_no_global_seed(net, kind, global_seeds_untouched) -> None:
    before = copy.deepcopy(net.state_dict())
    (_, one), (_, two) = (fitted(net, kind(0.5, epochs=2, batch_size=128)) for _ in range(2))
    assert one.module is not None and two.module is not None
    assert one.removed == two.removed and one.losses == two.losses
    pairs = zip(one.module.state_dict().values(), two.module.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert len(one.losses) == 2 * -(-DATA.calibration.n // 128)


def wasteful() -> nn.Module:
    """A trained network, with eight more neurons that cost as much as the others and add next to nothing."""
    made = nn.Sequential(nn.Flatten(), nn.Linear(144, 16), nn.ReLU(), nn.Linear(16, 4))
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        quarter = torch.zeros(4, 12, 12)
        for i in range(4):
            r, c = divmod(i, 2)
            quarter[i, 6 * r : 6 * r + 6, 6 * c : 6 * c + 6] = 0.05
        made[1].weight.copy_(torch.randn(16, 144, generator=draw) * 0.1)
        made[1].weight[::2] = quarter.flatten(1).repeat(2, 1)
        made[3].weight.copy_(torch.randn(4, 16, generator=draw) * 1e-3)
        made[3].weight[:, ::2] = (torch.eye(4) * 3).repeat(1, 2)
    return made.eval()


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)
def test_what_adds_nothing_is_what_goes(kind) -> None:
    net = wasteful()
    student = copy.deepcopy(net)
    told = kind(0.45, epochs=4, lr=1e-2, batch_size=32).fit(student, lesson_for(net))
    idle = set(told.removed["1"]) & set(range(1, 16, 2))
    assert len(told.removed["1"]) == 8 and len(idle) >= 7  # each of the others has a twin, and one of two may go


def test_in_one_line_it_learns_and_the_file_is_smaller(net, tmp_path) -> None:
    pytest.importorskip("onnxruntime")
    from lessen.targets import OnnxRuntime, float_onnx

    given = copy.deepcopy(net).train()
    made = lessen.apply(given, StructuredL0(0.7, epochs=5, lr=3e-3), small.data(600, seed=4))
    assert given.training and all(torch.equal(v, net.state_dict()[k]) for k, v in given.state_dict().items())
    with torch.no_grad():
        assert float((made(X).argmax(1) == Y).float().mean()) > 0.9
    files = [OnnxRuntime().export(float_onnx(m.eval(), (X[:2],)), tmp_path / f"{i}.onnx", None, {})
             for i, m in enumerate((net, made))]  # fmt: skip
    assert files[1].stat().st_size < 0.6 * files[0].stat().st_size
    assert torch.allclose(torch.as_tensor(OnnxRuntime().session(files[1])((X[:2],))[0]), made(X[:2]), atol=1e-4)


def test_residual_groups_and_heads_are_trained_too() -> None:
    draw = torch.Generator().manual_seed(0)
    made, (tokens,) = NETS["heads"]
    samples = torch.randint(20, (96, 8), generator=draw)
    gpt = lessen.apply(made(), StructuredL0(0.7, epochs=2), [samples])
    sizes = [tuple(p.shape) for p in gpt.parameters() if p.ndim == 2 and p.shape[1] == 16 and p.shape[0] % 12 == 0]
    assert len(sizes) == 2 and sizes != [(48, 16)] * 2  # whole heads of 4, of q and k and v
    assert gpt(tokens).shape == (2, 8, 20)
    images = torch.rand(64, 1, 28, 28, generator=draw)
    resnet = lessen.apply(network(), StructuredMovement(0.5, epochs=1, batch_size=16), [images])
    widths = {m.out_channels for n, m in resnet.named_modules() if n in ("stem.0", "blocks.0.conv2", "blocks.1.conv2")}
    assert len(widths) == 1  # one residual stream


def test_multiples_are_kept() -> None:
    _, told = fitted(small.trained(), StructuredMovement(0.3, epochs=1, batch_size=128, multiple=8))
    assert told.module is not None
    assert {m.weight.shape[0] % 8 for m in (told.module[0], told.module[3], told.module[9])} == {0}


def test_the_threshold_meets_the_budget_and_moves_with_the_scores(net) -> None:
    from lessen.train.hard_concrete import chance_of_open

    gates = Gates(net, trace(net, (X[:2],)).layers, (X[:2],))
    draw = torch.Generator().manual_seed(0)
    scores = {n: torch.randn(g.size, generator=draw).requires_grad_() for n, g in gates.groups.items()}
    at = threshold(gates, scores, 0.5)
    assert float(gates.macs({n: chance_of_open(s - at).detach() for n, s in scores.items()})) == pytest.approx(
        0.5, abs=1e-3
    )
    name = next(iter(scores))
    (slope,) = torch.autograd.grad(at, scores[name], retain_graph=True)
    moved = {n: s.detach() + (0.05 if n == name else 0.0) for n, s in scores.items()}
    assert float((threshold(gates, moved, 0.5) - at).detach()) == pytest.approx(0.05 * float(slope.sum()), rel=0.1)


def test_saliency_tells_gates_that_matter(net) -> None:
    gates = Gates(wasteful(), trace(wasteful(), (X[:2],)).layers, (X[:2],))
    found = saliency(wasteful(), gates, DATA.calibration)["1"]
    assert float(found[::2].min()) > 10 * float(found[1::2].max())


def test_frozen_groups_are_left_and_named_and_too_much_is_refused(net) -> None:
    given = copy.deepcopy(net)
    given[9].weight.requires_grad_(False)
    told = StructuredMovement(0.3, epochs=1, batch_size=128).fit(given, lesson_for(net))
    assert told.module is not None and told.module[9].out_features == 32
    assert any("9 was left as it is" in n and "frozen" in n for n in told.notes)
    with pytest.raises(
        LessenError, match=r"99.5% of the multiply-adds can't go: .*stay whatever is closed.*\n.*ask for less"
    ):
        fitted(net, StructuredL0(0.995))
    with pytest.raises(LessenError, match="no unit can be gated"):
        lessen.apply(nn.Sequential(nn.Flatten(), nn.Linear(144, 4)), StructuredL0(0.5), (X, Y))
    for bad in (0, 1.5, True):
        with pytest.raises(LessenError, match="multiple="):
            StructuredL0(multiple=bad)


@pytest.mark.slow
def test_compress_ships_it_and_the_original_class_takes_it(net, tmp_path) -> None:
    using = (StructuredL0(0.6, epochs=4, lr=3e-3), lessen.Uniform(8))
    job = Compression(net, small.data(), "5%", using, "packed", train=small.data(600, seed=5))
    result = job.run(tmp_path / "out")
    assert result.plan.trained == using[0]
    narrow = lessen.load_into(small.network(), result.files["model.lessen"])
    assert narrow[3].out_channels < 32
    with torch.no_grad():
        assert float((narrow(X).argmax(1) == Y).float().mean()) > 0.9
