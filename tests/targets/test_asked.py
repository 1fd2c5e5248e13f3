"""What a report says of bits that no kernel runs, and of layers that no sample reached."""

import torch
from torch import nn

import lessen
from lessen.targets import Coded, OpenVINO, float_onnx
from targets.small_nets import layers_of, noise, seeded


class Branches(nn.Module):
    """An expert that no sample reaches: its gate is always closed."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused, self.head = nn.Linear(16, 32), nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.used(x))
        return self.head(h + self.unused(h * 0.0))


def test_three_bits_are_stored_and_not_executed() -> None:
    with torch.random.fork_rng():
        network = seeded(Branches())
    using = (lessen.Uniform(bits=3, feedback=False),)
    budget = lessen.Budget(max_drop=90, max_size=10_000)  # so that bytes decide, whatever this machine's times are
    report = lessen.Compression(network, noise(60, 16), budget, using=using, target="openvino", rounds=1).run().report
    assert report.budget.met
    assert any("openvino runs weights at 8 bits; 3 are stored, not executed" in r for r in report.risks)


def test_a_closed_branch_is_named(caplog) -> None:
    x, place = noise(60, 16), OpenVINO()
    with torch.random.fork_rng():
        network = seeded(Branches())
    layers = layers_of(network, x)
    coded = Coded(layers, {}, {layer.name: "int8" for layer in layers})
    place.ranges(float_onnx(network, (x[:2],)), coded, [(x,)])
    assert "was 0 on all calibration samples: what reads it stays in float" in caplog.text
