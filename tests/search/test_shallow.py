"""Shallower benches: the block that matters least goes, for good, and a plan carries it out again."""

import pytest
import torch

from lessen.demo import data
from lessen.demo.network import network
from lessen.errors import LessenError
from lessen.job import open_job
from lessen.plan import Plan
from lessen.prune.channels import Channels
from lessen.prune.depth import Depth
from lessen.report import Progress
from lessen.search import shallow, widths
from lessen.search.prepare import prepared


@pytest.fixture(scope="module")
def job():
    x, y = data.part("calibration")
    parts = dict.fromkeys(("calibration", "validation", "test"), (x[:64], y[:64]))
    return open_job(network(), parts, "2%", "packed", "channels")


@pytest.fixture(scope="module")
def bench(job):
    return prepared(job, Progress())


@pytest.fixture(scope="module")
def made(job, bench):
    return shallow.shallower(job, bench, Depth(1), Progress())


def test_the_block_that_goes_hurts_least_for_its_cost(job, bench, made):
    (name,) = made.channels
    blocks = shallow.find_removable(bench.module, job.model.inputs)[0]
    harm, costs = shallow._Harm(job, bench, blocks), shallow._costs(bench, blocks)
    best = min(costs, key=lambda n: harm((n,)) / costs[n])
    assert name == shallow.PREFIX + best and made.harm == pytest.approx(harm((best,))) and harm(()) == 0
    assert made.traced.macs < bench.traced.macs and set(made.layers) < set(bench.layers)


def test_channels_go_on_from_there_and_a_plan_does_both_again(job, bench, made):
    narrow = widths.shrunk(job, made, Channels(0.3), Progress())
    assert narrow is not None and set(made.channels) < set(narrow.channels)
    assert narrow.traced.macs < made.traced.macs and narrow.harm > made.harm
    plan = Plan.from_yaml(Plan("packed", channels=narrow.channels).to_yaml())
    again = widths.removed(job, bench, plan, Progress())
    with torch.no_grad():
        assert torch.equal(again.module(*job.model.inputs), narrow.module(*job.model.inputs))


def test_the_edits_do_it_to_the_original_class(bench, made):
    from lessen.models.surgery import apply_edits

    assert {n: p.shape for n, p in apply_edits(bench.module, made.edits).named_parameters()} == {
        n: p.shape for n, p in made.module.named_parameters()
    }


def test_a_lessen_file_of_it_loads_into_the_original_class(job, made, tmp_path):
    pytest.importorskip("onnx_ir")
    from lessen import load_into
    from lessen.bench import realize
    from lessen.packed import write_packed
    from lessen.plan import Treatment
    from lessen.targets import float_onnx

    compressed = realize(made, {name: Treatment() for name in made.layers})
    path = write_packed(tmp_path / "m.lessen", compressed, float_onnx(made.module, job.model.inputs), Plan("packed"))
    again = load_into(network(), path if path is not None else tmp_path / "m.lessen")
    with torch.no_grad():
        torch.testing.assert_close(again(*job.model.inputs), made.module(*job.model.inputs))


def test_too_many_blocks_are_none_with_the_reason_in_the_log(job, bench):
    notes = []
    progress = Progress()
    progress.note = notes.append
    assert shallow.shallower(job, bench, Depth(5), progress) is None
    assert "only 4 of 5 residual blocks" in notes[0]


def test_a_plan_with_an_unknown_block_names_it(job, bench):
    with pytest.raises(LessenError, match=r"'blocks\.9' is no residual block"):
        widths.removed(job, bench, Plan("packed", channels={"block blocks.9": (0,)}), Progress())
