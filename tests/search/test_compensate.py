"""Readers of removed channels are refitted: the closed form against least squares on the data itself."""

import pytest
import torch

import small
from lessen.job import open_job
from lessen.models.groups import find_groups
from lessen.prune.channels import CRITERIA, Channels
from lessen.report import Progress
from lessen.search import widths
from lessen.search.compensate import compensate, readers, second_order
from lessen.search.prepare import prepared


@pytest.fixture(scope="module")
def job():
    return open_job(small.trained(), small.data(800), "2%", "packed", "channels")


@pytest.fixture(scope="module")
def bench(job):
    return prepared(job, Progress())


def _features(bench, layer_index, x):
    return bench.module[:layer_index](x)


def test_the_refit_is_least_squares(job, bench):
    import copy

    groups = {g.name: g for g in find_groups(bench.module, job.model.inputs).groups}
    last = next(g for g in groups.values() if any(layer.name == "11.weight" for layer, _ in readers(bench, g)))
    module = copy.deepcopy(bench.module)
    compensate(module, bench, groups, {last.name: [0, 5, 9]})
    with torch.no_grad():
        x = torch.cat([b.inputs[0] for b in job.data.calibration.batches()])
        inputs, wanted = _features(bench, 11, x), bench.module(x)
        kept = [i for i in range(32) if i not in (0, 5, 9)]
        design = torch.cat([inputs[:, kept], torch.ones(len(x), 1)], 1).double()
        solved = torch.linalg.pinv(design) @ wanted.double()  # some features are dead: rank-deficient
        best = float((design @ solved - wanted).square().sum())
        ours = float((inputs @ module[11].weight.T + module[11].bias - wanted).square().sum())
    assert bool((module[11].weight[:, [0, 5, 9]] == 0).all())
    assert best <= ours * (1 + 1e-6) and ours <= best * 1.02 + 1e-6


def test_harm_grows_with_every_unit_that_goes(job, bench):
    groups = [g for g in find_groups(bench.module, job.model.inputs).groups if g.size > 1]
    harms = second_order(bench, groups)
    assert harms
    for harm in harms.values():
        finite = harm[torch.isfinite(harm)]
        assert len(finite) == len(harm) - 1  # one unit always stays
        assert bool((finite >= 0).all())


@pytest.mark.parametrize("criterion", CRITERIA)
def test_narrower_networks_are_narrower_and_still_work(job, bench, criterion):
    made = widths.shrunk(job, bench, Channels(0.3, criterion), Progress())
    assert made is not None
    assert made.traced.macs < bench.traced.macs
    assert sum(p.numel() for p in made.module.parameters()) < sum(p.numel() for p in bench.module.parameters())
    x, y = small.data(400, seed=3)
    with torch.no_grad():
        before, after = ((m(x).argmax(1) == y).float().mean() for m in (bench.module, made.module))
    assert after > before - 0.25


def test_compensation_beats_plain_removal(job, bench):
    groups = find_groups(bench.module, job.model.inputs)
    from lessen.models.surgery import shrink

    made = widths.shrunk(job, bench, Channels(0.4), Progress())
    plain = shrink(bench.module, {k: list(v) for k, v in made.channels.items()}, job.model.inputs, groups)
    x = small.data(400, seed=3)[0]
    with torch.no_grad():
        wanted = bench.module(x)
        assert (made.module(x) - wanted).square().mean() < (plain(x) - wanted).square().mean()
