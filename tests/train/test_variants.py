"""A trained network in the chooser: a variant with its own curve, replayed to the same bytes, zeros stored small."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import lessen
import small
from lessen import GMP, Budget, Compression, LessenError, Plan, RigL, Slimming, Uniform
from lessen.report import phrases
from lessen.train import AsTrained

TRAIN = small.data(600, seed=5)
METHOD = RigL(0.8, epochs=2, lr=3e-3)


@pytest.fixture(scope="module")
def net():
    return small.trained()


@pytest.fixture(scope="module")
def sparse_run(net, tmp_path_factory):
    out = tmp_path_factory.mktemp("variant") / "out"
    job = Compression(net, small.data(), Budget(max_drop=5.0), (METHOD, Uniform(8)), "packed", train=TRAIN)
    return job.run(out), out


def test_the_variant_wins_and_its_zeros_are_stored_small(sparse_run, net, tmp_path) -> None:
    result, _ = sparse_run
    assert result.plan.trained == METHOD
    assert result.report.budget.met
    rows = {r.name: r for r in result.report.layers}
    assert sum(r.sparsity * r.parameters for r in rows.values()) / sum(r.parameters for r in rows.values()) > 0.79
    dense = Compression(net, small.data(), Budget(max_drop=5.0), (Uniform(8),), "packed").run(tmp_path / "dense")
    assert result.files["model.lessen"].stat().st_size < 0.6 * dense.files["model.lessen"].stat().st_size
    weights = lessen.load(result.files["model.lessen"]).module.state_dict().values()
    assert sum(int((w == 0).sum()) for w in weights) > 0.78 * 14144


def test_replay_gives_the_same_bytes_and_needs_the_same_training_data(sparse_run, net, tmp_path) -> None:
    result, out = sparse_run
    again = lessen.replay(out / "plan.yaml", net, small.data(), tmp_path / "again", train=TRAIN)
    assert again.files["model.lessen"].read_bytes() == result.files["model.lessen"].read_bytes()
    with pytest.raises(LessenError, match="plan, trained: the plan's network was trained"):
        lessen.replay(result.plan, net, small.data(), tmp_path / "without")


def test_the_report_says_that_zeros_bring_no_time(sparse_run) -> None:
    report = sparse_run[0].report
    assert "not the network faster" in phrases.zeros(report)
    assert "ONNX Runtime and OpenVINO multiply zeros" in phrases.zeros(report)
    assert "ONNX Runtime multiplies zeros" in phrases.zeros(replace(report, target="onnxruntime"))
    assert "2:4" not in phrases.zeros(report)
    patterns = tuple(replace(r, technique="NM(n=2, m=4)") for r in report.layers)
    assert "on a GPU only" in phrases.zeros(replace(report, layers=patterns))
    dense = tuple(replace(r, sparsity=0.1) for r in report.layers)
    assert phrases.zeros(replace(report, layers=dense)) == ""
    assert "not the network faster" in sparse_run[1].joinpath("report.html").read_text("utf-8")


@pytest.mark.slow
def test_what_training_silenced_is_taken_out(net, tmp_path) -> None:
    method = Slimming(0.5, epochs=2)
    job = Compression(net, small.data(), Budget(max_drop=5.0), (method, Uniform(8)), "onnxruntime", train=TRAIN)
    result = job.run(tmp_path / "out")
    assert result.plan.trained == method
    assert len(result.plan.channels.get("0", ())) >= 4
    assert result.report.ratios.macs > 1.3


def test_alone_the_layers_are_held_as_training_left_them(net, tmp_path) -> None:
    job = Compression(net, small.data(), Budget(max_drop=5.0), (GMP(0.9, 2, lr=3e-3),), "packed", train=TRAIN)
    result = job.run(tmp_path / "out")
    assert {type(t.technique) for t in result.plan.layers.values()} == {AsTrained}
    assert result.report.ratios.packed_size > 3


def test_what_cannot_be_trained_is_a_risk_in_the_report(net, tmp_path) -> None:
    plain = torch.nn.Sequential(*net[3:])
    x, y = small.data()
    with torch.no_grad():
        seen = net[:3](x)
        lessons = (net[:3](TRAIN[0]), TRAIN[1])
    job = Compression(plain, (seen, y), Budget(max_drop=5.0), (Slimming(0.5), Uniform(8)), "packed", train=lessons)
    assert any("Slimming could not be used: the network has no batch norm" in r for r in job.run(tmp_path).report.risks)


def test_training_needs_data(net) -> None:
    with pytest.raises(LessenError, match=r"RigL trains the network\n  mend: .*--train DATA"):
        Compression(net, small.data(), "5%", "rigl,uniform", "packed").run()


def test_the_plan_s_text() -> None:
    plan = Plan("packed", trained=RigL(0.95, epochs=4))
    assert "trained: {technique: RigL, sparsity: 0.95, epochs: 4}" in plan.to_yaml()
    assert Plan.from_yaml(plan.to_yaml()) == plan


@pytest.mark.parametrize(
    ("text", "told"),
    [("{technique: Uniform}", "trains nothing"), ("3", "trains nothing"), ("{technique: Rigl}", "unknown"),
     ("{technique: RigL, sparsity: 2}", "line 3.*sparsity=2")],
)  # fmt: skip
def test_a_plan_that_trains_nothing(text, told) -> None:
    with pytest.raises(LessenError, match=told):
        Plan.from_yaml(f"lessen: 1\ntarget: packed\ntrained: {text}\n")
