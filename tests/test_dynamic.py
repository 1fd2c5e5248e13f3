"""Dynamic quantization asked for: alone in one line, in plans, by the chooser, on the command line."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import lessen
from lessen import SVD, Compression, Dynamic, LessenError, Plan, Stack, Treatment, Uniform
from lessen.models import Layer
from lessen.propose import activation_harm
from lessen.prune import Magnitude
from lessen.search.pricing import TargetPrices
from lessen.search.track import Track
from lessen.statistics import Statistics
from targets.small_nets import Residual, built
from test_replay import assert_same

PLAN = "lessen: 1\ntarget: onnxruntime\nlayers:\n  a.weight: {technique: Uniform, activations: 8}\n"


class Tokens(nn.Module):
    """Tokens of very different sizes, of which the small ones decide."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(32, 64), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x)))[:, 1:].mean(1)


@dataclass(frozen=True)
class Taken:
    """A technique whose steps are a number."""

    steps: int = 3


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Tokens().eval()


def data(n: int = 120) -> Tensor:
    x = torch.randn(n, 5, 32, generator=torch.Generator().manual_seed(0))
    x[:, 0] *= 300
    return x


def test_alone_in_one_line_inputs_are_rounded_too() -> None:
    net, x = network(), data()
    before = copy.deepcopy(net.state_dict())
    errors = {}
    for technique in (Uniform(8), Dynamic(8), Dynamic(8, per="tensor")):
        made = lessen.apply(net, technique, (x,))
        with torch.no_grad():
            errors[technique] = float((made(x) - net(x)).norm() / net(x).norm())
    weights, token, tensor = errors.values()
    assert weights < token < 2 * weights < 5 * token < tensor, errors
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not any(m._forward_pre_hooks for m in net.modules())


def test_a_few_samples_without_labels_are_all_it_takes(tmp_path) -> None:
    made = lessen.apply(network(), Dynamic(), (data(4),))
    assert torch.isfinite(made(data())).all()


@pytest.mark.parametrize(("bits", "per"), [(9, "token"), (1, "token"), (8, "row"), (8.0, "token")])
def test_options_out_of_range(bits, per) -> None:
    with pytest.raises(LessenError, match=r"Dynamic: (bits|per)="):
        Dynamic(bits, per)


def test_a_plan_says_how_inputs_are_rounded() -> None:
    assert Treatment.of(Dynamic(4)) == Treatment(Uniform(4), "token")
    assert Treatment.of(Dynamic(per="tensor")) == Treatment(Uniform(8), "dynamic")
    stacked = Treatment.of(Stack((Magnitude(0.5), Dynamic())))
    assert stacked == Treatment(Stack((Magnitude(0.5), Uniform(8))), "token")
    assert Treatment.of(SVD(0.5)) == Treatment(SVD(0.5)) and Treatment.of(Taken()).activations is None  # type: ignore[arg-type]
    plan = Plan("onnxruntime", {"a": Treatment.of(Dynamic()), "b": Treatment(Uniform(), "static"), "c": stacked})
    assert Plan.from_yaml(plan.to_yaml()) == plan
    short = PLAN.replace("Uniform, activations: 8", "Dynamic, per: tensor")
    assert Plan.from_yaml(short).layers["a.weight"] == Treatment(Uniform(8), "dynamic")


@pytest.mark.parametrize(
    ("treatment", "told"),
    [
        ("Uniform, activations: row", "activations of 'row'"),
        ("Uniform, activations: true", "activations of True"),
        ("Dynamic, activations: dynamic", "Dynamic rounds activations by token, not dynamic"),
    ],
)
def test_what_cannot_be_executed_is_named_with_its_line(treatment: str, told: str) -> None:
    with pytest.raises(LessenError, match=f"line 4: {re.escape(told)}"):
        Plan.from_yaml(PLAN.replace("Uniform, activations: 8", treatment))


def test_the_chooser_takes_it_and_a_replay_gives_the_same_bytes(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("LESSEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(TargetPrices, "seconds", lambda prices, layer, coding, integer: 1e-3 if integer else 2e-3)
    monkeypatch.setattr(Track, "_ratio", lambda track, trial: 2.0)
    job = Compression(network(), data(), "0.5%", (Uniform(8), Dynamic))
    run = job.run(tmp_path / "run")
    assert "token" in {t.activations for t in run.plan.layers.values()}
    rows = {row.why for row in run.report.layers if row.done}
    assert "8-bit integers, inputs rounded in every token" in rows
    assert run.report.kernels is not None and run.report.kernels.integer >= 1
    assert_same(run, lessen.replay(run.files["plan.yaml"], network(), data(), tmp_path / "again"))


class Steps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(16, 32, batch_first=True), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0])


def test_an_lstm_is_taken_whole_and_replayed(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(TargetPrices, "seconds", lambda prices, layer, coding, integer: 1e-3 if integer else 2e-3)
    monkeypatch.setattr(Track, "_ratio", lambda track, trial: 2.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Steps().eval()
    x = torch.randn(60, 6, 16, generator=torch.Generator().manual_seed(0))
    run = Compression(net, x, "1%", Dynamic).run(tmp_path / "run")
    assert {n: t.activations for n, t in run.plan.layers.items() if "lstm" in n} == {
        "lstm.weight_ih_l0": "dynamic", "lstm.weight_hh_l0": "dynamic"
    }  # fmt: skip
    assert run.report.kernels is not None and (run.report.kernels.integer, run.report.kernels.float_) == (2, 0)
    assert_same(run, lessen.replay(run.files["plan.yaml"], net, x, tmp_path / "again"))


def test_a_plan_that_asks_it_of_a_convolution_names_the_layer(tmp_path) -> None:
    x = torch.randn(40, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    plan = Plan("onnxruntime", {"stem.weight": Treatment(Uniform(8), "token")})
    with pytest.raises(LessenError, match=r"stem.weight: .*linear layers only, this is conv"):
        lessen.replay(plan, built(Residual), x, tmp_path / "out")


def test_its_harm_is_that_of_a_token() -> None:
    g = torch.Generator().manual_seed(0)
    W, x = torch.randn(16, 64, generator=g), torch.randn(4000, 64, generator=g)
    layer = Layer("a.weight", "linear", W)
    known = Statistics((x.T @ x / len(x))[None], low=-900.0, high=900.0)  # one sample was loud
    got = 0.5 * float(((x - lessen.quantize.dynamic.rounded_at_run_time(x)) @ W.T).square().sum(1).mean())
    assert activation_harm(layer, known, "token") == pytest.approx(got, rel=0.3)
    assert activation_harm(layer, known) == activation_harm(layer, known, "dynamic") > 1000 * got


def test_a_target_that_executes_nothing_says_so(tmp_path) -> None:
    with pytest.raises(LessenError, match=r"--using dynamic.*packed computes in float(?s:.*)--target onnxruntime"):
        Compression(network(), data(), "1%", "dynamic", "packed").open()
    assert Compression(network(), data(), "1%", None, "packed").open().using
