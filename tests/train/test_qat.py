"""Quantization-aware training: its gradients by hand, its codings to the bit, its accuracy above the start's."""

from __future__ import annotations

import copy
import dataclasses
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import small
from lessen.data import Batch, Part, load_data
from lessen.errors import LessenError
from lessen.models import fold_batchnorm, trace
from lessen.train import Distillation, copied
from lessen.train.lsq import LSQ, lsq_slope
from lessen.train.method import Lesson, Training
from lessen.train.pact import PACT, pact_slope
from lessen.train.qat_inputs import put_inputs, remove_inputs
from lessen.train.qat_lesson import Once, Taught
from lessen.train.qat_quantizer import FakeQuantize, Learner, Slope
from lessen.train.qat_straight import StraightThrough

PART = load_data({"calibration": small.data(512, seed=4), "validation": small.data(64), "test": small.data(64, seed=2)})
LESSONS = PART.calibration
METHODS = (StraightThrough, LSQ, PACT)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return fold_batchnorm(small.trained(), (small.data(2)[0],))[0]


def fitted(net: nn.Module, method: Training, seed: int = 0, part: Part = LESSONS):
    student = copied(net)
    layers = trace(student, (small.data(2)[0],)).layers
    lesson = Lesson(net, layers, part, distillation=Distillation(alpha=1), seed=seed)
    return student, method.fit(student, lesson)


def error(net: nn.Module, student: nn.Module, n: int = 4000) -> float:
    x, labels = small.data(n, seed=9)
    with torch.no_grad():
        return float(Distillation(alpha=1)(student(x), net(x), labels))


def test_the_gradient_of_a_step_is_that_of_the_papers() -> None:
    x, step = torch.tensor([0.23, -0.9, 0.05, 2.0]), torch.tensor(0.1)
    for slope, wanted in ((lsq_slope, [-0.3, -4.0, -0.5, 3.0]), (pact_slope, [0.0, -4.0, 0.0, 3.0])):
        learner = Learner(step, -4, 3, Slope(slope))
        grads = []
        for one in x:
            learner(one).backward()
            assert learner.grown.grad is not None
            grads.append(float(learner.grown.grad) / (Slope(slope).speed * 0.1))  # d step / d grown
            learner.grown.grad = None
        assert grads == pytest.approx(wanted, abs=1e-5)


def test_the_gradient_passes_inside_the_range_only() -> None:
    x = torch.tensor([0.23, -0.9, 2.0], requires_grad=True)
    Learner(torch.tensor(0.1), -4, 3, None)(x).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [1.0, 0.0, 0.0]


def test_learned_steps_agree_with_finite_differences() -> None:
    """Of clipped values the slope is exact, not straight-through."""
    x = torch.tensor([5.0, -7.0])
    learner = Learner(torch.tensor(0.5), -4, 3, Slope(lsq_slope))
    learner(x).sum().backward()
    with torch.no_grad():
        before, learner.grown[...] = learner(x).sum(), 1e-4
        slope = float(learner(x).sum() - before) / 1e-4
    assert float(learner.grown.grad) == pytest.approx(slope, rel=1e-2)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", METHODS)
def test_training_is_better_than_its_start_and_holds_to_its_grids(net: nn.Module, kind: type) -> None:
    before, start = fitted(net, kind(2, 3, epochs=0))
    after, trained = fitted(net, kind(2, 3, epochs=8, lr=1.5e-3, batch_size=32))
    assert error(net, after) < 0.8 * error(net, before)
    assert len(trained.losses) == 104 and sum(trained.losses[-13:]) < 0.8 * sum(trained.losses[:13])
    layers = {x.name: x for x in trace(net, (small.data(2)[0],)).layers}
    assert set(trained.codings) == set(layers) == set(start.codings)
    for name, layer in layers.items():
        held = layer.to_matrix(after.get_parameter(name).detach())
        torch.testing.assert_close(held, trained.codings[name].decode(), rtol=0, atol=0)
        moved = not torch.equal(trained.codings[name].scale, start.codings[name].scale)
        assert moved == (kind is LSQ)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "left"), [(StraightThrough, 0.8), (LSQ, 0.7), (PACT, 0.85)])
def test_with_samples_enough_a_fifth_of_the_error_and_more_goes(net: nn.Module, kind: type, left: float) -> None:
    many = load_data({"calibration": small.data(4096, seed=4), "validation": small.data(8), "test": small.data(8, 2)})
    before, _ = fitted(net, kind(2, 3, epochs=0), part=many.calibration)
    after, _ = fitted(net, kind(2, 3, epochs=4, lr=3e-3, batch_size=32), part=many.calibration)
    assert error(net, after) < left * error(net, before)


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize(("bits", "lr"), [((4, 4), 3e-3), ((2, 3), 0.3)])
def test_what_training_makes_no_better_stays_as_it_was(net: nn.Module, kind: type, bits: tuple[int, int], lr) -> None:
    """Four bits leave next to nothing to learn on so few samples, and a rate of 0.3 learns nothing at any."""
    before, start = fitted(net, kind(*bits, epochs=0), seed=1)
    after, trained = fitted(net, kind(*bits, epochs=2, lr=lr, batch_size=32), seed=1)
    assert error(net, after) <= error(net, before)
    if lr == 0.3:
        assert "is kept" in trained.notes[-1] and trained.inputs == start.inputs
        for name, coding in start.codings.items():
            assert torch.equal(coding.decode(), trained.codings[name].decode())
            assert torch.equal(before.get_parameter(name), after.get_parameter(name))


def test_activations_take_no_more_values_than_their_bits(net: nn.Module) -> None:
    student, trained = fitted(net, LSQ(4, 3, epochs=1))
    seen: dict[str, Tensor] = {}
    for name, module in student.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(lambda m, args, _, name=name: seen.__setitem__(name, args[0]))
    with torch.no_grad():
        student(small.data(64, seed=9)[0])
    for name, x in seen.items():
        r = trained.inputs[f"{name}.weight"]
        assert len(x.unique()) <= 8 and r.bits == 3
        assert r.low - 1e-6 <= float(x.min()) and float(x.max()) <= r.high + 1e-6 and r.low <= 0 <= r.high
    assert trained.inputs["3.weight"].low == 0 > trained.inputs["0.weight"].low  # behind a ReLU, and an image


class Viewer(nn.Sequential):
    """Works only while activations lie in rows, as `view` wants it; counts what it was asked."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 3), nn.Linear(4 * 36, 3))
        self.asked = 0

    def forward(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        return self[1](self[0](x).relu().view(len(x), -1))


def test_the_teacher_is_asked_once_about_a_sample_and_about_the_right_one() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Viewer().eval()
    x = torch.randn(50, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    lesson = Lesson(net, (), load_data({"calibration": x, "validation": x[:3], "test": x[3:6]}).calibration)
    taught = Taught(lesson, 3)
    assert net.asked == 50
    for _ in range(3):
        seen = []
        for batch in taught.batches(16):
            seen.append((batch.inputs[0], taught(*batch.inputs)))
        assert net.asked == 50
        torch.testing.assert_close(torch.cat([y for _, y in seen]), twin(net)(torch.cat([x for x, _ in seen])))
        assert not torch.equal(torch.cat([x for x, _ in seen]), x)
    once = Taught(lesson, 1)
    assert all(torch.equal(once(*b.inputs), twin(net)(*b.inputs)) for b in once.batches(16)) and net.asked == 100


def twin(net: nn.Module) -> nn.Module:
    return copy.deepcopy(net)


def test_a_network_that_views_its_activations_is_trained_too() -> None:
    net, x = Viewer().eval(), torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(RuntimeError, match="view"):
        net(x.to(memory_format=torch.channels_last))
    assert torch.equal(Once(net)(x), net(x))


def test_under_autocast_products_are_short_and_losses_are_not(net: nn.Module) -> None:
    x, seen = small.data(8)[0], []
    hook = net[0].register_forward_hook(lambda m, args, y: seen.append(y.dtype))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert Once(net)(x).dtype == torch.float32
    hook.remove()
    assert seen == [torch.bfloat16] and Once(net)(x).dtype == torch.float32


def test_two_bits_have_their_zero_on_a_level_or_between_two(net: nn.Module) -> None:
    """Each channel its own; training keeps it. From three bits on it is on one."""
    start, trained = (fitted(net, LSQ(2, None, epochs=e))[1].codings for e in (0, 2))
    zeros = torch.cat([c.zero_point.flatten() for c in start.values()])
    assert {-1, 0, 1} <= set(zeros.tolist()) and all(c.odd and c.bits == 2 for c in start.values())
    assert all(torch.equal(c.zero_point, trained[n].zero_point) and trained[n].odd for n, c in start.items())
    assert all(c.symmetric for c in fitted(net, StraightThrough(3, None, epochs=0))[1].codings.values())


def test_two_trainings_are_equal_and_seeds_are_not(net: nn.Module) -> None:
    first, second, other = (fitted(net, LSQ(2, 3, epochs=2, lr=3e-3, batch_size=32), seed) for seed in (0, 0, 1))
    states = [student.state_dict() for student, _ in (first, second)]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert first[1].losses == second[1].losses != other[1].losses


def test_a_trained_network_can_be_copied_traced_and_saved(net: nn.Module) -> None:
    student, _ = fitted(net, LSQ(4, 4, epochs=1))
    x = small.data(8)[0]
    twin = copy.deepcopy(student)
    wanted = student(x).detach()
    assert torch.equal(twin(x), wanted)
    exported = torch.export.export(student, (x,), strict=False).module()
    torch.testing.assert_close(exported(x), wanted)
    fresh, _ = fitted(net, StraightThrough(8, 8, epochs=0))
    fresh.load_state_dict(student.state_dict())
    assert len(trace(student, (x,)).layers) == 5


class Fork(nn.Module):
    """Two layers that read the same tensor, and a recurrent cell."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.cell = nn.Linear(6, 8), nn.Linear(6, 8), nn.LSTMCell(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        y, state = self.a(x).relu() + self.b(x), None
        for _ in range(3):
            state = self.cell(y, state)
        return state[0]


def test_who_reads_the_same_tensor_shares_a_quantizer_and_cells_have_one_for_their_state() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Fork().eval()
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    part = load_data({"calibration": x, "validation": x[:3], "test": x[3:6]}).calibration
    layers = trace(net, (x[:2],)).layers
    student = copied(net)
    placed, why = put_inputs(student, layers, 4, Slope(lsq_slope), part.batches())
    assert placed["a.weight"] is placed["b.weight"] and not why
    assert len({id(q) for q in placed.values()}) == 3
    assert not torch.equal(student(x), net(x))
    remove_inputs(student)
    assert torch.equal(student(x), net(x)) and set(student.state_dict()) == set(net.state_dict())


def test_inputs_that_cannot_be_reached_are_named() -> None:
    net = nn.MultiheadAttention(8, 2, batch_first=True)
    layers = trace(nn.Sequential(nn.Linear(8, 8)), (torch.zeros(1, 8),)).layers
    placed, why = put_inputs(net, [dataclasses.replace(layers[0], name="in_proj_weight")], 8, None, [])
    assert not placed and "MultiheadAttention" in why["in_proj_weight"]


def test_an_activation_says_its_bits() -> None:
    assert [FakeQuantize(torch.tensor(1.0), low, high).bits for low, high in ((0, 255), (-8, 7), (-3, 12))] == [8, 4, 4]


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize(
    "bad", [{"bits": 1}, {"bits": 9}, {"activations": 1}, {"bits": True}, {"per": "group"}, {"epochs": -1}, {"lr": 0}]
)
def test_nonsense_is_refused(kind: type, bad: dict[str, object]) -> None:
    with pytest.raises(LessenError, match=r"LSQ|PACT|StraightThrough|can't train"):
        kind(**bad)


def test_coarse_grids_learn_faster_unless_told() -> None:
    assert [LSQ(b, a).settings.lr for b, a in ((8, 8), (4, 8), (4, None), (4, 4), (2, 8))] == [5e-4] * 3 + [2e-3] * 2
    assert LSQ(2, 8, lr=1e-4).settings.lr == 1e-4


def test_coarse_grids_take_as_many_passes_over_few_samples_as_they_need(net: nn.Module, monkeypatch) -> None:
    assert [LSQ(b, a).passes(294) for b, a in ((8, 8), (4, 8), (4, None), (4, 4), (2, 8))] == [2] * 3 + [120] * 2
    assert LSQ(2, 8, batch_size=16).passes(294) == 32 and LSQ(2, 8).passes(60000) == 2
    assert LSQ(2, 8, epochs=3).passes(294) == 3 and LSQ(2, 8, epochs=3).steps(294) == 15
    monkeypatch.setattr("lessen.train.qat._STEPS", 20)
    steps = [len(fitted(net, LSQ(bits, 3, epochs=epochs))[1].losses) for bits, epochs in ((2, None), (2, 1), (2, 0))]
    assert steps == [21, 7, 0]  # 410 samples, 64 in a batch


def test_they_are_training_methods_with_offers() -> None:
    for kind in METHODS:
        assert isinstance(kind(), Training) and all(isinstance(o, kind) for o in kind.offers())
    assert all(a.bits >= b.bits for a, b in pairwise(LSQ.offers()))


def test_a_network_that_gives_nan_is_an_error(net: nn.Module) -> None:
    x, labels = small.data(64)
    x[0, 0, 0, 0] = float("nan")
    bad = Part("calibration", (Batch((x,), labels),))
    student = copied(net)
    with pytest.raises(LessenError, match="NaN"):
        LSQ().fit(student, Lesson(net, trace(student, (small.data(2)[0],)).layers, bad))


def test_an_input_that_becomes_nan_is_named(net: nn.Module) -> None:
    x = small.data(8)[0]
    x[0, 0, 0, 0] = float("nan")
    with pytest.raises(LessenError, match=r"0\.weight(?s:.*)NaN"):
        put_inputs(
            copied(net), trace(net, (small.data(2)[0],)).layers, 8, None, [Batch((x,)), Batch((x.nan_to_num(),))]
        )
