"""Sparse training: the sparsity asked for, exact zeros, the same twice, the original untouched, and clear errors."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

import lessen
import small
from lessen import GMP, IMP, L0, L1, STR, Adaptive, GroupLasso, LessenError, Movement, RigL, Slimming
from lessen.data import load_data, split
from lessen.models import trace
from lessen.technique import describe
from lessen.techniques import build, named, trainings
from lessen.train import Distillation, Lesson, Training

DATA = load_data(small.data(600, seed=4), sizes=split.lessons)
SINGLE = (GMP, RigL, STR, Movement, L1, L0, IMP)
X, Y = small.data(400, seed=6)


@pytest.fixture(scope="module")
def net():
    return small.trained()


def lesson_for(net: nn.Module, seed: int = 0) -> Lesson:
    return Lesson(net, trace(net, (X[:2],)).layers, DATA.calibration, DATA.validation, seed=seed)


def fitted(net: nn.Module, method: Training, seed: int = 0):
    student = copy.deepcopy(net)
    return student, method.fit(student, lesson_for(net, seed))


@torch.no_grad()
def accuracy(net: nn.Module) -> float:
    return float((net(X).argmax(1) == Y).float().mean())


@pytest.mark.parametrize("kind", SINGLE, ids=lambda k: k.__name__)
def test_the_sparsity_asked_for_within_one_weight_and_the_zeros_are_exact(net, kind) -> None:
    student, told = fitted(net, kind(sparsity=0.8, epochs=1, lr=3e-3))
    layers = {x.name: x for x in trace(net, (X[:2],)).layers}
    assert told.masks.keys() == layers.keys()
    total = sum(x.weight.numel() for x in layers.values())
    assert abs(told.sparsity * total - 0.8 * total) <= 1
    for name, mask in told.masks.items():
        held = layers[name].to_matrix(student.get_parameter(name).detach())
        assert bool((held[~mask] == 0).all())
        assert bool(mask.any())
    assert sum(int((student.get_parameter(n) == 0).sum()) for n in layers) >= round(0.8 * total) - 1
    assert not any("parametrizations" in name for name, _ in student.named_modules())


@pytest.mark.parametrize("kind", [GMP, RigL, L1, IMP], ids=lambda k: k.__name__)
def test_it_learns_where_cutting_alone_does_not(net, kind) -> None:
    student, told = fitted(net, kind(sparsity=0.9, epochs=3, lr=3e-3))
    cut = copy.deepcopy(net)
    with torch.no_grad():
        for x in trace(net, (X[:2],)).layers:
            coding = lessen.Magnitude(0.9).encode(x, lessen.Statistics())
            cut.get_parameter(x.name).copy_(x.from_matrix(coding.decode()))
    assert accuracy(student) > accuracy(cut) + 0.1
    assert sum(told.losses[-5:]) < sum(told.losses[len(told.losses) // 2 :][:5]) or accuracy(student) > 0.95


@pytest.mark.parametrize("kind", [*SINGLE, GroupLasso, Slimming], ids=lambda k: k.__name__)
def test_twice_the_same_and_no_global_seed(net, kind, global_seeds_untouched) -> None:
    before = copy.deepcopy(net.state_dict())
    (first, told), (again, _) = (fitted(net, kind(sparsity=0.5, epochs=1, batch_size=256)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert not all(torch.equal(before[k], v) for k, v in first.state_dict().items())
    assert told.losses


def test_another_seed_is_another_run(net) -> None:
    first, other = (fitted(net, RigL(epochs=1), seed)[0] for seed in (0, 1))
    assert not torch.equal(first[3].weight, other[3].weight)


def test_rigl_moves_connections_and_keeps_its_budgets(net) -> None:
    still, moving = (fitted(net, RigL(0.8, 2, drop=drop))[1].masks for drop in (0.0, 0.3))
    assert [int(m.sum()) for m in still.values()] == [int(m.sum()) for m in moving.values()]
    assert any(not torch.equal(a, b) for a, b in zip(still.values(), moving.values(), strict=True))
    density = {n: float(m.float().mean()) for n, m in moving.items()}
    sides = {n: sum(net.get_parameter(n).shape) / net.get_parameter(n).numel() for n in moving}
    assert density["3.weight"] / density["9.weight"] == pytest.approx(sides["3.weight"] / sides["9.weight"], rel=0.02)


def test_the_thresholds_of_str_are_learned_apart(net) -> None:
    learned, common = (fitted(net, kind(0.8, 1, lr=3e-3))[1].masks for kind in (STR, GMP))
    assert [int(m.sum()) for m in learned.values()] != [int(m.sum()) for m in common.values()]


def test_group_lasso_silences_whole_neurons_but_no_answer(net) -> None:
    student, told = fitted(net, GroupLasso(0.5, 1))
    rows = {n: m.any(1) for n, m in told.masks.items()}
    assert "11.weight" not in rows
    assert sum(int((~r).sum()) for r in rows.values()) == round(0.5 * sum(len(r) for r in rows.values()))
    silent = ~rows["9.weight"]
    hidden = student[:11](X)
    assert bool(silent.any()) and bool((hidden[:, silent] == 0).all())


def test_slimming_silences_channels_behind_batch_norms(net) -> None:
    student, _ = fitted(net, Slimming(0.5, 1))
    assert int((student[1].weight == 0).sum()) == 8
    assert torch.equal(student[1].weight == 0, student[1].bias == 0)


def test_a_network_without_batch_norms_has_none_to_slim() -> None:
    plain = nn.Sequential(nn.Flatten(), nn.Linear(144, 8), nn.ReLU(), nn.Linear(8, 4))
    with pytest.raises(LessenError, match=r"no batch norm with a scale.*\n.*GroupLasso"):
        lessen.apply(plain, Slimming(epochs=1), (X, Y))


def test_a_ticket_goes_back_to_the_weights_it_was_handed_in_with(net) -> None:
    fresh = small.network().eval()
    fresh[1] = nn.Identity()  # its statistics are those of no data
    method = IMP(0.8, epochs=1, rounds=2, rewind="weights", lr=1e-2)
    student, told = fitted(fresh, method)
    assert len(told.losses) == 3 * -(-DATA.calibration.n // 64)  # dense once, then two rounds
    stayed, went = (
        float((made[9].weight - fresh[9].weight).detach().abs()[told.masks["9.weight"]].mean())
        for made, told in ((student, told), fitted(fresh, IMP(0.8, epochs=1, rounds=3, lr=1e-2)))
    )
    assert stayed < 0.7 * went  # one epoch away from the start, not three
    assert sum(told.losses[-3:]) < 0.95 * sum(told.losses[-9:-6])  # the last round learns


def test_the_adaptive_schedule_keeps_its_promise_and_tells_its_steps(net) -> None:
    loose, tight = (fitted(net, Adaptive(max_drop=d, epochs=6, lr=3e-3)) for d in (10.0, 0.0))
    assert loose[1].sparsity >= tight[1].sparsity
    assert loose[1].sparsity > 0.7
    assert any("kept" in note for note in loose[1].notes)
    x, y = (DATA.validation.blocks[0].inputs[0], DATA.validation.blocks[0].labels)
    with torch.no_grad():
        lost = float((net(x).argmax(1) == y).float().mean() - (loose[0](x).argmax(1) == y).float().mean())
    assert lost <= 0.1 + 1e-6


def test_shared_weights_stay_shared() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.out = nn.Linear(144, 144, bias=False), nn.Linear(144, 4)

        def forward(self, x):
            x = x.flatten(1)
            return self.out(nn.functional.relu(nn.functional.linear(self.first(x).relu(), self.first.weight)))

    made = lessen.apply(Tied(), GMP(0.75, epochs=1), (X, Y))
    weights = (made.first.weight, made.out.weight)
    assert sum(int((w == 0).sum()) for w in weights) == round(0.75 * sum(w.numel() for w in weights))


def test_in_one_line_and_the_original_is_as_it_was(net) -> None:
    given = copy.deepcopy(net).train()
    made = lessen.apply(given, RigL(sparsity=0.75, epochs=2), (X, Y), where="9")
    assert float((made[9].weight == 0).float().mean()) == pytest.approx(0.75, abs=1e-3)
    assert not bool((made[3].weight == 0).any())
    assert given.training and all(m.training for m in given.modules())
    assert all(torch.equal(a, b) for a, b in zip(given.state_dict().values(), net.state_dict().values(), strict=True))


def test_frozen_layers_are_left_and_named_and_all_frozen_is_an_error(net) -> None:
    given = copy.deepcopy(net)
    given[9].weight.requires_grad_(False)
    student, told = fitted(given, GMP(0.5, 1))
    assert torch.equal(student[9].weight, net[9].weight)
    assert "9.weight is frozen" in told.notes[0]
    with pytest.raises(LessenError, match=r"GMP, 0.weight, .*: no weight can be trained\n.*requires_grad_"):
        lessen.apply(copy.deepcopy(net).requires_grad_(False), GMP(0.5, 1), (X, Y))


class _Root(nn.Module):
    """A square root whose slope at 0 is infinite while its value is 0."""

    def forward(self, x):
        return (x.clamp_min(0) * 0).sqrt() + x


def test_a_gradient_that_is_not_a_number_names_the_layer(net) -> None:
    bad = nn.Sequential(nn.Flatten(), nn.Linear(144, 8), _Root(), nn.Linear(8, 4))
    before = copy.deepcopy(bad.state_dict())
    with pytest.raises(LessenError, match=r"GMP, 1\.weight: \d+ gradients are NaN or infinite\n.*learning rate"):
        lessen.apply(bad, GMP(0.5, 1), (X, Y))
    assert all(torch.equal(before[k], v) for k, v in bad.state_dict().items())


class _Explodes(nn.Module):
    def forward(self, x):
        return (1e3 * x).exp()


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    bad = nn.Sequential(nn.Flatten(), nn.Linear(144, 4), _Explodes())
    with pytest.raises(LessenError, match=r"L1: the training loss is not finite\n.*learning rate"):
        lessen.apply(bad, L1(0.5, 1), (X, Y))


@pytest.mark.parametrize("kind", trainings().values(), ids=lambda k: k.__name__)
def test_every_method_offers_settings_that_are_told_and_rebuilt(kind) -> None:
    assert dataclasses.is_dataclass(kind)
    assert kind.__doc__ and ">>>" in kind.__doc__
    assert named(kind.__name__.lower()) == (kind,)
    for setting in kind.offers():
        assert isinstance(setting, Training)
        assert build(describe(setting)) == setting


@pytest.mark.parametrize("sparsity", [1.0, -0.1, float("nan"), "half", True])
@pytest.mark.parametrize("kind", [GMP, RigL, Slimming, Adaptive], ids=lambda k: k.__name__)
def test_nonsense_sparsity(kind, sparsity) -> None:
    with pytest.raises(LessenError, match=f"{kind.__name__}: sparsity="):
        kind(sparsity=sparsity)


@pytest.mark.parametrize(
    "bad", [lambda: RigL(drop=1.0), lambda: L1(strength=0.0), lambda: IMP(rounds=0), lambda: IMP(rewind="back"),
            lambda: GMP(epochs=0), lambda: GroupLasso(strength=float("inf")), lambda: Adaptive(max_drop=-1)],
)  # fmt: skip
def test_nonsense_settings(bad) -> None:
    with pytest.raises(LessenError, match=r"mend:|can't train"):
        bad()


def test_without_labels_the_original_teaches(net) -> None:
    made = lessen.apply(net, GMP(0.7, epochs=2, lr=3e-3), [X[:200], X[200:]])
    with torch.no_grad():
        assert float((made(X).argmax(1) == net(X).argmax(1)).float().mean()) > 0.8


def test_distillation_is_the_lesson_s(net) -> None:
    taught, told = (
        GMP(0.7, 1).fit(copy.deepcopy(net), dataclasses.replace(lesson_for(net), distillation=Distillation(a)))
        for a in (1.0, 0.0)
    )
    assert taught.losses != told.losses
