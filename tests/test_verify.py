"""Files are judged a few large samples at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lessen.verify import piecewise


class Seen:
    """A session that doubles its input, and notes how many samples it was handed."""

    def __init__(self, outputs: int = 1, whole: bool = False) -> None:
        self.sizes: list[int] = []
        self.outputs, self.whole = outputs, whole

    def __call__(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        self.sizes.append(len(inputs[0]))
        y = 2 * inputs[0] + (inputs[1] if len(inputs) > 1 else 0)
        return (y.sum()[None] if self.whole else y,) * self.outputs


def test_large_samples_go_one_by_one_and_come_back_as_one_batch() -> None:
    session, x = Seen(outputs=2), torch.arange(30.0).reshape(5, 6)
    got = piecewise(session, values=12)([x, torch.tensor(1.0)])  # the second is shared by all samples
    assert session.sizes == [2, 2, 1]
    assert len(got) == 2 and torch.equal(got[0], 2 * x + 1) and torch.equal(got[1], 2 * x + 1)


def test_small_ones_go_together() -> None:
    session, x = Seen(), torch.ones(5, 6)
    piecewise(session)([x])
    assert session.sizes == [5]


def test_inputs_without_a_common_axis_and_outputs_that_count_no_samples_go_whole() -> None:
    state = Seen()
    piecewise(state, values=1)([torch.ones(4, 6), torch.ones(1, 6)])
    assert state.sizes == [4]
    single = Seen(whole=True)
    got = piecewise(single, values=12)([torch.ones(5, 6)])
    assert single.sizes == [2, 5] and float(got[0]) == 60
