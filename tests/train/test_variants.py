"""A trained network in the chooser: a variant with its own curve, replayed to the same bytes, zeros stored small."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import lessen
import small
from lessen import GMP, Budget, Channels, Compression, LessenError, Plan, RigL, Slimming, Uniform
from lessen.forecast import zeros_note
from lessen.report import Progress, phrases
from lessen.search import variants
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


def test_the_variant_wins_and_its_zeros_are_stored_small(sparse_run) -> None:
    result, _ = sparse_run
    assert result.plan.trained == METHOD
    assert result.report.budget.met
    rows = {r.name: r for r in result.report.layers}
    assert sum(r.sparsity * r.parameters for r in rows.values()) / sum(r.parameters for r in rows.values()) > 0.79
    assert result.files["model.lessen"].stat().st_size < 0.6 * sum(
        r.parameters for r in rows.values()
    )  # bytes at 8 bits
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
    assert "ONNX Runtime multiplies zeros" in phrases.zeros(report) and "OpenVINO passes" in phrases.zeros(report)
    alone = phrases.zeros(replace(report, target="onnxruntime"))
    assert "ONNX Runtime multiplies zeros like other numbers at any sparsity" in alone and "OpenVINO" not in alone
    assert "2:4" not in phrases.zeros(report)
    patterns = tuple(replace(r, technique="NM(n=2, m=4)") for r in report.layers)
    assert "on a GPU only" in phrases.zeros(replace(report, layers=patterns))
    dense = tuple(replace(r, sparsity=0.1) for r in report.layers)
    assert phrases.zeros(replace(report, layers=dense)) == ""
    assert "not the network faster" in sparse_run[1].joinpath("report.html").read_text("utf-8")


def test_what_training_silenced_is_what_is_taken_out(net) -> None:
    method = Slimming(0.5, epochs=2)
    job = Compression(net, small.data(), "5%", (method,), "packed", train=TRAIN).open()
    bench = variants.variant(job, method, Progress())
    assert variants.structured(bench)
    silent = {i for i, row in enumerate(bench.layers["0.weight"].matrix) if not bool(row.any())}
    assert len(silent) == 8
    cut = variants.narrower(job, bench, Channels(0.2), Progress())
    assert cut is not None and cut.trained == method
    assert cut.channels["0"] and set(cut.channels["0"]) <= silent


def test_where_zeros_bring_nothing_they_win_the_tie_and_the_packed_file(net, tmp_path) -> None:
    using = (GMP(0.8, epochs=2, lr=3e-3), Uniform(8))
    result = Compression(net, small.data(), Budget(max_drop=5.0), using, "onnxruntime", train=TRAIN).run(
        tmp_path / "out"
    )
    assert result.plan.trained == using[0]
    assert result.report.ratios.packed_size > 2 * result.report.ratios.size


def test_alone_the_layers_are_held_as_training_left_them(net, tmp_path) -> None:
    job = Compression(net, small.data(), Budget(max_drop=5.0), (GMP(0.9, 2, lr=3e-3),), "packed", train=TRAIN)
    result = job.run(tmp_path / "out")
    assert {type(t.technique) for t in result.plan.layers.values()} == {AsTrained}
    assert result.report.ratios.packed_size > 3


def test_the_forecast_says_so_beforehand() -> None:
    assert "onnxruntime computes with them as with any others" in zeros_note("onnxruntime")
    assert "2:4 needs a GPU" in zeros_note("openvino")


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
