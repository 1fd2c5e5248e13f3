"""Smoothing where calibration left channels silent."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lessen.targets import float_onnx, smoothed
from lessen.targets.smooth import Smoothed
from targets.small_nets import layers_of

CHANNELS = 32


class Scaled(nn.Module):
    """A linear layer behind a multiplication that sets each channel's size."""

    def __init__(self, loud: float) -> None:
        super().__init__()
        self.register_buffer("sizes", torch.cat([torch.ones(CHANNELS - 1), torch.tensor([loud])]))
        self.linear = nn.Linear(CHANNELS, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x * self.sizes)


def smoothed_without(silent: int, loud: float = 1.0) -> tuple[Smoothed, Tensor, Tensor]:
    """Smoothed on samples whose first channels are zero; the scales; and the same samples before they were silenced."""
    generator = torch.Generator().manual_seed(1)
    module = Scaled(loud).eval()
    with torch.no_grad():
        module.linear.weight.copy_(torch.randn(16, CHANNELS, generator=generator))
    x = torch.randn(64, CHANNELS, generator=generator).clamp(-2, 2)
    quiet = x.clone()
    quiet[:, :silent] = 0
    seen = (quiet * module.sizes).aminmax(dim=0)
    made = smoothed(float_onnx(module, (quiet,)), layers_of(module, quiet), {"linear.weight": tuple(seen)}, 0.85)
    return made, made.scales["linear.weight"], x * module.sizes


@pytest.mark.parametrize("silent", [1, 5, 20])
def test_a_channel_that_calibration_left_silent_stays_in_range_when_it_speaks(silent):
    made, scales, x = smoothed_without(silent)
    low, high = made.ranges["linear.weight"]
    spoken = x / scales
    few = silent < CHANNELS / 2  # where most are silent nobody knows what is typical
    assert spoken.abs().max() < (2 if few else 60) * max(-low, high)


def test_outliers_are_tamed_beside_silent_channels():
    _, scales, _ = smoothed_without(5, loud=40.0)
    assert 10 < scales[-1] / scales[:-1].median() < 60


def test_nothing_heard_at_all_changes_nothing_wildly():
    _, scales, _ = smoothed_without(CHANNELS)
    assert torch.isfinite(scales).all() and scales.max() / scales.min() < 4
