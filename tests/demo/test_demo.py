"""The packaged task: whole, kept apart, and well below the size that would burden the package."""

from __future__ import annotations

import pytest
import torch

from lessen.demo import data, network


@pytest.mark.parametrize("name", data.SIZES)
def test_parts(name: str) -> None:
    x, y = data.part(name)
    assert x.shape == (data.SIZES[name], 1, 28, 28) and x.dtype == torch.float32
    assert x.min() == 0 and x.max() == 1
    assert y.dtype == torch.int64 and y.unique().tolist() == list(range(len(data.CLASSES)))


def test_parts_share_no_image() -> None:
    seen = [row.numpy().tobytes() for name in data.SIZES for row in data.part(name)[0].flatten(1)]
    assert len(set(seen)) > 0.999 * len(seen)  # the data set itself holds a few images twice
    assert sum(data.SIZES.values()) == len(seen)


def test_network_is_trained() -> None:
    x, y = data.part("test")
    with torch.no_grad():
        found = network.network()(x).argmax(1)
    assert (found == y).float().mean() > 0.91


def test_the_network_is_ready_to_run() -> None:
    model = network.network()
    assert not model.training
    assert sum(p.numel() for p in model.parameters()) == 174_970


def test_package_stays_small() -> None:
    assert data.DATA.stat().st_size < 4_100_000
    assert network.WEIGHTS.stat().st_size < 1_200_000
