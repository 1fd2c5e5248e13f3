"""Small packages with every kind of coding, for the tests of the file format."""

from __future__ import annotations

import torch
from torch import Tensor

from lessen.codings import Codebook, Dense, Grid, LowRank, Sparse
from lessen.codings.container import Package


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def grid(rows: int, columns: int, bits: int = 8, seed: int = 0) -> Grid:
    """A per-channel grid of a Gaussian matrix."""
    w = torch.randn(rows, columns, generator=generator(seed))
    scale = w.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    return Grid(torch.round(w / scale).to(torch.int8), scale, torch.zeros(rows, 1, dtype=torch.int16), bits)


def whole_numbers(rows: int, columns: int, step: float = 0.25) -> Tensor:
    """A float matrix that needs no random generator: the same in every version of torch."""
    return ((torch.arange(rows * columns) * 37 % 29 - 14).float() * step).reshape(rows, columns)


def sample() -> Package:
    """One of everything, made by integer arithmetic: golden."""
    codes = (whole_numbers(8, 12) * 4).to(torch.int8)
    scale = torch.arange(1, 9).float()[:, None] / 64
    plain = Grid(codes, scale, torch.zeros(8, 1, dtype=torch.int16), 5)
    shifted = Grid(codes.to(torch.int16) * 9, scale.repeat(1, 3), torch.arange(24).reshape(8, 3).to(torch.int16), 9)
    mask = whole_numbers(6, 8) > 1
    return Package(
        codings={
            "a.weight": plain,
            "b.weight": LowRank(shifted, Dense(whole_numbers(12, 3).half())),
            "c.weight": Codebook((codes.abs() % 5).to(torch.uint8), torch.tensor([[-1.0, -0.5, 0.0, 0.5, 1.0]])),
            "d.weight": Sparse(mask, whole_numbers(6, 8)[mask]),
            "e.weight": Dense(whole_numbers(3, 5).bfloat16()),
        },
        layouts={"a.weight": {"kind": "conv", "out_axis": 0, "groups": 1, "shape": [8, 3, 2, 2]}},
        others={
            "a.bias": whole_numbers(1, 8)[0],
            "bn.count": torch.tensor(7),
            "bn.flags": torch.tensor([True, False, True]),
            "empty": torch.zeros(0, 4),
            "wide": whole_numbers(2, 3).double(),
        },
        edits=[{"op": "keep", "path": "a.weight", "dim": 0, "kept": torch.tensor([0, 1, 3, 4, 6, 7, 8, 9])}],
        graph=b"not really onnx " * 8,
        info={"lessen": "0", "model": "sample"},
    )


def tensors(package: Package) -> dict[str, Tensor]:
    """Everything in a package that is numbers, decoded."""
    return {
        **{f"codings.{k}": c.decode() for k, c in package.codings.items()},
        **{f"others.{k}": t for k, t in package.others.items()},
        **{f"edits.{i}.{k}": v for i, e in enumerate(package.edits) for k, v in e.items() if isinstance(v, Tensor)},
    }
