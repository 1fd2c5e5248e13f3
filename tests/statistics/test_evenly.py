"""The numpy loops round as those in torch do."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lessen.statistics import evenly
from lessen.statistics.evenly import Evenly
from lessen.statistics.second_order import Rounding, descend, factorize, feed_back

ROWS, COLUMNS = 20, 96


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def levels(size: int, masked: bool, order: Tensor | None) -> tuple[Evenly, Rounding]:
    """The same levels for both: affine, three bits."""
    steps = COLUMNS // size
    scale = 0.4 + draw(steps, ROWS, seed=1).abs()
    low = torch.randint(-5, -1, (steps, ROWS), generator=torch.Generator().manual_seed(2)).float()
    keep = (draw(COLUMNS, ROWS, seed=3) > -0.5).float() if masked else None
    places = range(COLUMNS) if order is None else order.tolist()

    def round_to(x: Tensor, j: int) -> Tensor:
        n = places[j] // size
        q = (x * (1 / scale[n])).round().clamp(low[n], low[n] + 7) * scale[n]
        return q if keep is None else q * keep[places[j]]

    return Evenly(scale, low, low + 7, size, keep, order), round_to


@pytest.mark.parametrize("size", [COLUMNS, 32])
@pytest.mark.parametrize("masked", [False, True])
def test_both_feed_back_and_descend_alike(size: int, masked: bool) -> None:
    x = draw(300, COLUMNS, seed=4) @ (torch.eye(COLUMNS) + draw(COLUMNS, COLUMNS, seed=5) / 8)
    H, W = (x.T @ x / len(x))[None], draw(1, COLUMNS, ROWS)
    order = H[0].diagonal().argsort(descending=True)
    factor = factorize(H, 0.0, order)
    assert factor is not None
    fast, slow = levels(size, masked, order)
    found, wanted = (f(W[:, order], factor, g) for f, g in ((evenly.feed_back, fast), (feed_back, slow)))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    fast, slow = levels(size, masked, None)
    start = wanted[:, order.argsort()]
    moved = []
    for run, how in ((evenly.descend, fast), (descend, slow)):
        Q, F = start.clone(), H @ (W - start)
        run(Q, F, H, how)
        moved.append(Q)
        torch.testing.assert_close(F, H @ (W - Q), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(moved[0], moved[1], rtol=0, atol=1e-5)
    assert not torch.equal(moved[0], start)
