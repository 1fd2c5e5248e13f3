"""Readers of removed channels are refitted: the closed form against least squares on the data itself."""

import pytest
import torch

import small
from lessen.errors import LessenError
from lessen.job import open_job
from lessen.models.groups import find_groups
from lessen.prune.channels import CRITERIA, Channels
from lessen.report import Progress
from lessen.search import widths
from lessen.search.compensate import compensate, readers, second_order
from lessen.search.importance import importance_of
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


class Normed(torch.nn.Sequential):
    """Two hidden layers, a batch norm behind the first; unit 3 of it is silent."""

    def __init__(self) -> None:
        nn = torch.nn
        super().__init__(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3))
        draw = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=draw) * 0.5)
            self[1].bias.fill_(0.1)
            self[1].weight[3], self[1].bias[3] = 0.01, -5.0


def _importances(criterion):
    net = Normed().eval()
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
    job = open_job(net, (x, net(x).argmax(1)), "2%", "packed", "channels")
    bench = prepared(job, Progress())
    groups = find_groups(bench.module, job.model.inputs).groups
    return importance_of(job, bench, groups, criterion), groups


@pytest.mark.parametrize("criterion", ["apoz", "mean_activation", "batchnorm_scale", "wanda", "fisher", "taylor"])
def test_a_silent_unit_matters_least(criterion):
    found, groups = _importances(criterion)
    scores = found[groups[0].name]
    assert scores.shape == (8,) and int(scores.argmin()) == 3
    if criterion == "batchnorm_scale":  # the other group passes none
        assert set(found) == {groups[0].name}
    if criterion == "apoz":
        assert scores[3] == 0 and bool((found[groups[1].name] > 0.99).all())


def test_zeros_are_not_counted_where_there_are_none():
    net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.GELU(), torch.nn.Linear(8, 3)).eval()
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
    job = open_job(net, (x, net(x).argmax(1)), "2%", "packed", "channels")
    bench = prepared(job, Progress())
    groups = find_groups(bench.module, job.model.inputs).groups
    with pytest.raises(LessenError, match="ever zero") as error:
        importance_of(job, bench, groups, "apoz")
    assert error.value.where == "2.weight" and "mean_activation" in error.value.mend


class Transformer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.TransformerEncoderLayer(16, 4, 24, 0.0, batch_first=True)
        self.head = torch.nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.layer(x).mean(1))


@pytest.mark.parametrize("criterion", [c for c in CRITERIA if c != "batchnorm_scale"])
def test_heads_and_neurons_are_ranked_by_every_criterion_that_knows_them(criterion):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Transformer().eval()
    x = torch.randn(64, 5, 16, generator=torch.Generator().manual_seed(1))
    job = open_job(net, (x, net(x).argmax(1)), "2%", "packed", "channels")
    bench = prepared(job, Progress())
    groups = {g.name: g for g in find_groups(bench.module, job.model.inputs).groups}
    found = importance_of(job, bench, tuple(groups.values()), criterion)
    assert {groups[n].size for n in found} >= {24}
    assert all(found[n].shape == (groups[n].size,) and not found[n].isnan().any() for n in found)
