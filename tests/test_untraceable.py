"""A network that torch.export can't follow: found by module type, exported as it ran, the risk told."""

import torch
from torch import nn

import small
from lessen import Compression, Uniform


class Branchy(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = small.trained()

    def forward(self, x):
        y = self.body(x)
        if float(y.mean()) > 1e9:
            y = y + 1
        return y


def test_it_is_compressed_all_the_same():
    result = Compression(Branchy().eval(), small.data(), "2%", (Uniform(8),)).run()
    assert result.report.budget.met
    assert result.report.ratios.size > 2
    assert any("torch.export" in risk for risk in result.report.risks)
    x = small.data(8)[0]
    with torch.no_grad():
        assert result.model(x).shape == (8, 4)
