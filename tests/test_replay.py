"""A plan carried out again gives the bytes of the run that made it, whatever it holds; and so does a second run."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lessen
import small
from lessen import Budget, Channels, Compression, Uniform
from lessen.plan import Plan, Treatment
from targets.small_nets import Block, built

BYTES = ("model.onnx", "model.lessen", "plan.yaml")


def assert_same(first, *others, names=BYTES):
    for other in others:
        assert other.plan.sha256() == first.plan.sha256()
        assert other.report.plan_sha256 == first.report.plan_sha256
        for name in names:
            assert other.files[name].read_bytes() == first.files[name].read_bytes(), name


def block():
    module = built(Block)
    with torch.no_grad():
        module.norm.weight[3] = 40  # one channel of the normalized input is forty times the others
        module.qkv.weight[:, 3] /= 40
    return module


class Gates(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru, self.head = nn.GRU(32, 64, batch_first=True), nn.Linear(64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.gru(x)[0])


@pytest.fixture(scope="module")
def net():
    return small.trained()


def test_a_smoothed_plan(tmp_path):
    tokens = torch.randint(0, 50, (120, 12), generator=torch.Generator().manual_seed(0))
    run = Compression(block(), tokens, Budget(max_drop=0.02), (Uniform(8),)).run(tmp_path / "run")
    assert run.plan.smooth is not None, "the task no longer asks for smoothing: make another"
    again = [lessen.replay(run.files["plan.yaml"], block(), tokens, tmp_path / name) for name in ("a", "b")]
    assert_same(run, *again)


def test_a_plan_with_channels(net, tmp_path):
    job = Compression(net, small.data(), "6%", (Uniform(8), Channels(0.25)))
    run = job.run(tmp_path / "run")
    assert run.plan.channels and not run.plan.tuned_widths
    again = [lessen.replay(run.files["plan.yaml"], net, small.data(), tmp_path / name) for name in ("a", "b")]
    assert_same(run, job.run(tmp_path / "second"), *again)


def test_a_plan_with_fine_tuned_widths(net, tmp_path):
    extra = small.data(400, seed=9)
    run = Compression(net, small.data(), "6%", (Uniform(8), Channels(0.25)), train=extra).run(tmp_path / "run")
    assert run.plan.channels and run.plan.tuned_widths
    plan = run.files["plan.yaml"]
    assert_same(run, *(lessen.replay(plan, net, small.data(), tmp_path / name, train=extra) for name in ("a", "b")))


def test_layers_that_the_plan_does_not_name_are_kept_for_that_reason(net, tmp_path):
    plan = Plan("onnxruntime", {"9.weight": Treatment(Uniform(8), activations=8)})
    rows = {r.name: r for r in lessen.replay(plan, net, small.data(), tmp_path / "out").report.layers}
    assert rows["9.weight"].done and not rows["11.weight"].done
    assert rows["11.weight"].why == "kept: the plan does not name it"


def test_two_runs_and_a_replay_of_a_packed_file(net, tmp_path):
    job = Compression(net, small.data(), "4%", "uniform,kmeans", "packed")
    run = job.run(tmp_path / "run")
    replayed = lessen.replay(run.plan, net, small.data(), tmp_path / "replayed")
    assert_same(run, job.run(tmp_path / "again"), replayed, names=("model.lessen", "plan.yaml"))


def test_a_recurrent_network_is_stored_once(tmp_path):
    """Its weights lie in the graph in ONNX's order of gates, in the class in torch's: the file holds them once."""
    module, x = built(Gates), torch.randn(60, 6, 32, generator=torch.Generator().manual_seed(0))
    run = Compression(module, x, "5%", (Uniform(4),), "packed").run(tmp_path / "run")
    coded = [row for row in run.report.layers if row.kind == "recurrent" and row.done]
    assert len(coded) == 2
    assert run.files["model.lessen"].stat().st_size < 4 * sum(p.numel() for p in module.parameters()) / 3
    with torch.no_grad():
        wanted = run.model(x)
        opened = (
            lessen.load_into(built(Gates), run.files["model.lessen"]),
            lessen.load(run.files["model.lessen"]).module,
        )
        for net in opened:
            torch.testing.assert_close(net(x), wanted, rtol=1e-4, atol=1e-4)
