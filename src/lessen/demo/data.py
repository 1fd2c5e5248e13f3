"""The demo's data: 9,000 images of Fashion-MNIST, in parts that never mix.

`train` and `calibration` come from the data set's training split, which the network has seen; `validation` and `test`
from its test split, which it has not.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DATA = Path(__file__).parent / "data.npz"
SIZES = {"train": 3000, "calibration": 500, "validation": 2000, "test": 3500}
CLASSES = "T-shirt Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag Boot".split()


def part(name: str) -> tuple[Tensor, Tensor]:
    """Images [n, 1, 28, 28] in 0..1 and labels [n] of "train", "calibration", "validation" or "test"."""
    with np.load(DATA, allow_pickle=False) as file:
        x, y = file[f"{name}_images"], file[f"{name}_labels"]
    return torch.from_numpy(x.astype("float32") / 255)[:, None], torch.from_numpy(y.astype("int64"))


def parts() -> dict[str, tuple[Tensor, Tensor]]:
    """All but the training part. `lessen compress ... --data data.py:parts` opens it."""
    return {name: part(name) for name in ("calibration", "validation", "test")}


def train() -> tuple[Tensor, Tensor]:
    """The part to fine-tune on. `lessen compress ... --train data.py:train` opens it."""
    return part("train")
