"""The whole journey on a small task: files, report, promise, determinism, replay."""

import json

import pytest
import torch

import lessen
import small
from lessen import Budget, Compression, Uniform
from lessen.models.packed import load_into, load_packed

FILES = {"model.onnx", "model.lessen", "plan.yaml", "report.json", "report.html", "run.log"}


@pytest.fixture(scope="module")
def net():
    return small.trained()


@pytest.fixture(scope="module")
def job(net):
    return Compression(net, small.data(), "2%", "uniform,kmeans")


@pytest.fixture(scope="module")
def done(job, tmp_path_factory):
    return job.run(tmp_path_factory.mktemp("runs") / "out")


def test_the_files_are_there_and_the_figures_are_theirs(done):
    assert set(done.files) == FILES
    report = json.loads(done.files["report.json"].read_text())
    assert report["result"]["file_bytes"] == done.files["model.onnx"].stat().st_size
    assert report["ratios"]["size"] > 2
    assert report["budget"]["met"] is True
    assert report["drop"]["low"] <= report["drop"]["value"] <= report["drop"]["high"]
    assert report["baseline"]["metric"]["value"] - report["result"]["metric"]["value"] == pytest.approx(
        report["drop"]["value"]
    )
    assert report["plan_sha256"] == done.plan.sha256()
    assert {layer["name"] for layer in report["layers"]} == {
        "0.weight",
        "3.weight",
        "5.weight",
        "9.weight",
        "11.weight",
    }
    assert "<svg" in done.files["report.html"].read_text()


def test_two_runs_give_the_same_bytes(job, done, tmp_path):
    again = job.run(tmp_path / "again")
    assert again.plan.sha256() == done.plan.sha256()
    for name in ("model.onnx", "model.lessen", "plan.yaml"):
        assert again.files[name].read_bytes() == done.files[name].read_bytes()


def test_a_plan_replays_to_the_same_bytes(net, done, tmp_path):
    again = lessen.replay(done.files["plan.yaml"], net, small.data(), tmp_path / "again")
    for name in ("model.onnx", "model.lessen"):
        assert again.files[name].read_bytes() == done.files[name].read_bytes()


def test_the_packed_file_loads_with_and_without_its_class(done):
    x = small.data(20, seed=5)[0]
    wanted = done.model(x)
    path = done.files["model.lessen"]
    torch.testing.assert_close(load_into(small.network(7), path)(x), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(load_packed(path)(x), wanted, rtol=1e-4, atol=1e-4)
    assert path.stat().st_size < done.files["model.onnx"].stat().st_size


def test_a_budget_that_cannot_be_met_is_told_and_the_nearest_point_kept(net):
    result = Compression(net, small.data(), Budget(max_drop=2, min_ratio=500), (Uniform(8),)).run()
    assert not result.report.budget.met and result.report.budget.reason
    assert result.files["model.onnx"].is_file()
    assert any(not d.met and d.name == "--min-ratio" for d in result.report.budget.asked)


def test_a_size_alone_is_held_with_the_least_harm(net):
    base = 4 * sum(p.numel() for p in net.parameters())
    result = Compression(net, small.data(), Budget(max_size=base // 2), "uniform").run()
    assert result.report.budget.met
    assert result.report.result.file_bytes <= base // 2


def test_nothing_global_moves_and_the_model_stays(net, tmp_path):
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = torch.random.get_rng_state()
    Compression(net, small.data(), "5%", (Uniform(8),)).run(tmp_path / "out")
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_without_labels_the_promise_is_on_agreement(net):
    result = Compression(net, small.data()[0], "1%", (Uniform(8),)).run()
    assert result.report.data.metric == "cosine" and not result.report.data.labelled
    assert result.report.result.metric.value > 0.98


def test_one_technique_in_one_line(net):
    x, y = small.data()
    coarse, fine = (lessen.apply(net, Uniform(bits=b), (x, y)) for b in (2, 8))
    with torch.no_grad():
        assert (fine(x) - net(x)).abs().max() < (coarse(x) - net(x)).abs().max()


def test_channels_are_really_gone(net):
    plain = Compression(net, small.data(), "5%", (Uniform(8),)).run()
    narrow = Compression(net, small.data(), "5%", "uniform,channels").run()
    assert narrow.report.result.file_bytes <= plain.report.result.file_bytes
    assert narrow.report.result.parameters < plain.report.result.parameters


def test_training_recovers_and_replays(net, tmp_path):
    extra = small.data(600, seed=9)
    job = Compression(net, small.data(), "2%", (Uniform(3),), "onnxruntime", train=extra)
    result = job.run(tmp_path / "a")
    again = lessen.replay(result.plan, net, small.data(), tmp_path / "b", train=extra)
    assert again.files["model.lessen"].read_bytes() == result.files["model.lessen"].read_bytes()
