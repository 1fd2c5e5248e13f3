"""What a report says of bits that no kernel runs, and of layers that no sample reached."""

import torch
from torch import nn

import lessen
from targets.small_nets import noise, seeded


class Branches(nn.Module):
    """An expert that no sample reaches: its gate is always closed."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused, self.head = nn.Linear(16, 32), nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.used(x))
        return self.head(h + self.unused(h * 0.0))


def test_three_bits_are_stored_and_not_executed_and_a_closed_branch_is_named(caplog) -> None:
    with torch.random.fork_rng():
        network = seeded(Branches())
    using = (lessen.Uniform(bits=3, feedback=False),)
    report = lessen.Compression(network, noise(60, 16), "90%", using=using, target="openvino", rounds=1).run().report
    assert any("openvino runs weights at 8 bits; 3 are stored, not executed" in r for r in report.risks)
    assert "was 0 on all calibration samples: what reads it stays in float" in caplog.text
