"""What is opened and checked before any work."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lessen
from lessen.errors import BudgetNotMet, LessenError
from lessen.job import open_job
from lessen.statistics import collect
from lessen.statistics.losses import error_of_outputs, sampled_labels


def opened(outputs: int, classes: int = 2):
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, outputs))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    x, y = torch.randn(90, 6, generator=generator), torch.randint(classes, (90,), generator=generator)
    return open_job(net, (x, y), None, "onnxruntime", None)


def test_a_classifier_draws_labels_from_its_own_answers():
    assert opened(2).loss is sampled_labels


def test_a_single_probability_is_no_classifier():
    """The cross entropy of one class is 0: nothing would do harm, and everything would be rounded to two bits."""
    from lessen.models import trace

    job = opened(1)
    assert job.loss is error_of_outputs
    module, layers = job.model.module, trace(job.model.module, job.model.inputs).layers
    found = collect(module, layers, job.data.calibration.batches(), job.loss)
    assert all(float(s.G.min()) > 0 for s in found.values())


def test_labels_outside_the_classes_are_refused():
    with pytest.raises(LessenError, match="the network has 2 classes"):
        opened(2, classes=3)


def test_a_result_that_misses_its_budget_can_be_refused(tmp_path):
    import small
    from lessen import Budget, Compression, Uniform

    result = Compression(small.network().eval(), small.data(300), Budget(min_ratio=500), (Uniform(8),)).run(
        tmp_path / "out"
    )
    with pytest.raises(BudgetNotMet, match=r"--min-ratio 500x: measured") as caught:
        result.checked()
    assert caught.value.exit_code == 3 and str(tmp_path / "out") in str(caught.value)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(4, 3), nn.Linear(5, 3)

    def forward(self, a, b):
        return self.left(a) + self.right(b)


def test_a_pair_of_tensors_is_two_inputs_where_the_network_takes_two():
    pair = (torch.randn(12, 4), torch.randn(12, 5))
    job = open_job(TwoInputs().eval(), [pair], "1%", "packed", None)
    assert [x.shape[1] for x in job.model.inputs] == [4, 5]
    assert not job.data.labelled
    labelled = open_job(TwoInputs().eval(), [(*pair, torch.arange(12) % 3)], "1%", "packed", None)
    assert labelled.data.labelled
    assert lessen.apply(TwoInputs().eval(), lessen.Uniform(8), [pair])(*pair).shape == (12, 3)
