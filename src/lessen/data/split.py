"""Splitting samples into parts that never mix, by a private generator."""

from __future__ import annotations

import torch
from torch import Tensor

CALIBRATION = 300  # ranges and second moments settle by then; more costs time and takes from the other parts


def sizes(n: int) -> tuple[int, int, int]:
    """(calibration, validation, test) for `n` >= 3 samples: a quarter but at most 300, then halves of the rest."""
    calibration = max(1, min(CALIBRATION, n // 4))
    validation = (n - calibration) // 2
    return calibration, validation, n - calibration - validation


def lessons(n: int) -> tuple[int, int, int]:
    """(training, validation, test) for `n` >= 3 samples that are given to train on: all but a tenth, at most 1000."""
    aside = max(1, min(500, n // 20))
    return n - 2 * aside, aside, aside


def order(n: int, labels: Tensor | None, seed: int) -> Tensor:
    """A random order [n] of the samples in which, with class labels, every stretch has the classes in proportion.

    Sample k of the n_c of class c goes to place (k + u_c) / n_c with u_c uniform in [0, 1): systematic sampling.
    """
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(n, generator=generator)
    if labels is None or not is_classes(labels):
        return shuffled
    place = torch.empty(n, dtype=torch.float64)
    classes, inverse = labels[shuffled].unique(return_inverse=True)
    for c in range(len(classes)):
        members = (inverse == c).nonzero().flatten()
        phase = torch.rand((), generator=generator, dtype=torch.float64)
        place[members] = (torch.arange(len(members), dtype=torch.float64) + phase) / len(members)
    return shuffled[place.argsort(stable=True)]


def is_classes(labels: Tensor) -> bool:
    """One integer a sample, and fewer classes than half the samples."""
    return labels.ndim == 1 and not labels.is_floating_point() and len(labels.unique()) * 2 <= len(labels)


def cut(indices: Tensor, parts: tuple[int, ...]) -> tuple[Tensor, ...]:
    """Consecutive stretches of `indices` of the given lengths."""
    return torch.split(indices, list(parts))
