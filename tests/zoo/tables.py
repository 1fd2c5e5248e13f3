"""Tables and text: UCI's letters and its neighbours, and the King James Bible."""

from __future__ import annotations

import re
import subprocess
import warnings
from functools import cache

import numpy as np
import torch
from torch import Tensor

from zoo.cache import item

LABELS = {"LetterRecognition": "lettr", "Satellite": "classes", "Shuttle": "Class", "DNA": "Class"}


@cache
def table(name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A UCI table of R's mlbench, features scaled to mean 0 and deviation 1 by the training part.

    Args:
        name: "LetterRecognition" (20000 x 16, 26 classes), "Satellite" (6435 x 36), "Shuttle" (58000 x 9) or "DNA".

    Returns:
        (x_train, y_train, x_test, y_test), shuffled once, 80 / 20.
    """
    import rdata

    path = item("mlbench") / f"usr/lib/R/site-library/mlbench/data/{name}.rda"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Unknown encoding")
        frame = next(iter(rdata.read_rda(path).values()))
    labels = frame.pop(LABELS[name]).astype("category").cat.codes.to_numpy().astype("int64")
    features = np.stack([np.asarray(frame[c].astype(str), "float32") for c in frame.columns], 1)
    order = np.random.default_rng(0).permutation(len(features))
    x, y, cut = torch.from_numpy(features[order]), torch.from_numpy(labels[order]), len(features) * 4 // 5
    mean, deviation = x[:cut].mean(0), x[:cut].std(0).clamp_min(1e-6)
    x = (x - mean) / deviation
    return x[:cut], y[:cut], x[cut:], y[cut:]


def letters() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Drawn letters by 16 features: x [16000 | 4000, 16], labels 0..25."""
    return table("LetterRecognition")


@cache
def kjv() -> str:
    """The King James Bible, 4.1 M characters (public domain)."""
    folder = item("kjv")
    command = [str(folder / "usr/bin/bible"), "-p", str(folder / "usr/lib"), "-f", "gen1:1-rev22:21"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL).stdout
    return re.sub(r"(?m)^\S+ ", "", text)


@cache
def characters() -> tuple[str, Tensor, Tensor]:
    """`kjv` as numbers for a character model: (alphabet, tokens to train on, tokens to test on), 95 / 5."""
    text = kjv()
    alphabet = "".join(sorted(set(text)))
    place = {c: n for n, c in enumerate(alphabet)}
    tokens = torch.tensor([place[c] for c in text])
    cut = len(tokens) * 95 // 100
    return alphabet, tokens[:cut], tokens[cut:]
