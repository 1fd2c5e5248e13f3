"""What every coding must hold to. A new one needs an example here, and a missing one fails."""

from __future__ import annotations

import json

import pytest
import torch

from lessen.codings import CODINGS, Codebook, Coding, Dense, Grid, LowRank, ScaledCodebook, Sparse, coding_from_parts
from lessen.errors import LessenError

from .samples import draw

MASK = draw(6, 8) > 0
EXAMPLES: dict[str, Coding] = {
    "dense": Dense(draw(6, 8)),
    "dense half": Dense(draw(6, 8).half()),
    "grid": Grid((draw(6, 8) * 3).to(torch.int8), draw(6, 1).abs(), torch.zeros(6, 1, dtype=torch.int16), 4),
    "grid groups": Grid((draw(6, 8) * 3).to(torch.int8), draw(6, 2).abs(), torch.ones(6, 2, dtype=torch.int16), 4),
    "grid tensor": Grid((draw(6, 8) * 99).to(torch.int16), torch.ones(1, 1), torch.ones(1, 1, dtype=torch.int16), 12),
    "grid odd": Grid(
        (draw(6, 8) > 0).to(torch.int8) * 2 - 1, draw(6, 1).abs(), torch.tensor([[0, 1] * 3]).T.short(), 2, True
    ),
    "codebook": Codebook((draw(6, 8).abs() * 4).clamp(0, 3).to(torch.uint8), draw(1, 4)),
    "codebook rows": Codebook((draw(6, 8).abs() * 4).clamp(0, 3).to(torch.uint8), draw(6, 4)),
    "scaled": ScaledCodebook((draw(6, 8).abs() * 4).clamp(0, 3).to(torch.uint8), draw(1, 4), draw(6, 2).abs()),
    "scaled tensor": ScaledCodebook((draw(6, 8).abs() * 4).clamp(0, 3).to(torch.uint8), draw(1, 4), torch.ones(1, 1)),
    "sparse": Sparse(MASK, draw(int(MASK.sum()))),
    "lowrank": LowRank(Dense(draw(6, 2)), Dense(draw(2, 8))),
    "lowrank grids": LowRank(
        Grid((draw(6, 2) * 3).to(torch.int8), torch.ones(6, 1), torch.zeros(6, 1, dtype=torch.int16), 4),
        Dense(draw(2, 8)),
    ),
}


def test_every_coding_has_an_example() -> None:
    assert {type(c) for c in EXAMPLES.values()} == set(CODINGS)


@pytest.mark.parametrize("name", EXAMPLES)
def test_decodes_to_a_float32_matrix_of_its_shape_every_time(name: str) -> None:
    coding = EXAMPLES[name]
    decoded = coding.decode()
    assert isinstance(coding, Coding)
    assert decoded.dtype == torch.float32
    assert tuple(decoded.shape) == coding.shape == (6, 8)
    assert bool(torch.isfinite(decoded).all())
    assert torch.equal(decoded, coding.decode())


@pytest.mark.parametrize("name", EXAMPLES)
def test_is_rebuilt_from_parts_and_json_settings(name: str) -> None:
    coding = EXAMPLES[name]
    again = coding_from_parts(coding.kind, coding.parts(), json.loads(json.dumps(coding.settings())))
    assert type(again) is type(coding)
    assert torch.equal(again.decode(), coding.decode())


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_missing_part_is_an_error_that_names_it(name: str) -> None:
    coding = EXAMPLES[name]
    parts = coding.parts()
    first = next(iter(parts))
    with pytest.raises(LessenError, match=f"lacks.*{first.split('.')[-1]}"):
        coding_from_parts(coding.kind, {k: v for k, v in parts.items() if k != first}, coding.settings())


def test_an_unknown_kind_is_an_error_with_the_nearest() -> None:
    with pytest.raises(LessenError, match="did you mean 'grid'"):
        coding_from_parts("gird", {}, {})
