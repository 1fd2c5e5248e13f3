"""What each sample contributes to a metric: pure functions (outputs [n, ...], target [n, ...]) -> rows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lessen.data.check import IGNORED
from lessen.errors import LessenError

MEND = "choose a metric that fits them, or write your own: --metric file.py:function"


def single(outputs: Tensor) -> bool:
    """One number a sample: [n] or [n, 1]."""
    return outputs.ndim == 1 or (outputs.ndim == 2 and outputs.shape[1] == 1)


def classes_last(outputs: Tensor, labels: Tensor) -> Tensor:
    """Outputs [n, ..., classes] or [n, classes, ...] for labels [n, ...], as [n, ..., classes]."""
    if outputs.ndim != labels.ndim + 1:
        raise LessenError(
            f"outputs {tuple(outputs.shape)} for labels {tuple(labels.shape)}: one more axis is needed, the classes",
            mend="give class numbers as labels (of one-hot: y.argmax(1)), or " + MEND,
        )
    if outputs.shape[:-1] == labels.shape:
        return outputs
    moved = outputs.movedim(1, -1)
    if moved.shape[:-1] != labels.shape:
        raise LessenError(f"outputs {tuple(outputs.shape)} don't fit labels {tuple(labels.shape)}", mend=MEND)
    return moved


def predict(outputs: Tensor, labels: Tensor) -> Tensor:
    """The predicted class; of a single number a sample, class 1 where the probability is over 1/2 (the logit over 0).

    Where the network answered NaN, a class that does not exist, which is never right.
    """
    if single(outputs):
        flat = outputs.reshape(-1)
        probability = bool(((flat >= 0) & (flat <= 1)).all())
        return torch.where(flat.isfinite(), (flat > (0.5 if probability else 0.0)).long(), 2)
    return largest(classes_last(outputs, labels))


def largest(scores: Tensor) -> Tensor:
    """Place of the largest along the last axis; one past the end where there is NaN or infinity."""
    return torch.where(scores.isfinite().all(-1), scores.argmax(-1), scores.shape[-1])


def mean_over_positions(scores: Tensor, labels: Tensor) -> Tensor:
    """Each sample's mean over its positions that count; samples where none does are left out."""
    counts = (labels != IGNORED).reshape(len(labels), -1).double()
    scored = counts.sum(1) > 0
    return ((scores.double().reshape(len(labels), -1) * counts).sum(1) / counts.sum(1))[scored]


def accuracy(outputs: Tensor, labels: Tensor) -> Tensor:
    return mean_over_positions(predict(outputs, labels) == labels, labels)


def top5(outputs: Tensor, labels: Tensor) -> Tensor:
    scores = classes_last(outputs, labels)
    best = scores.topk(min(5, scores.shape[-1]), dim=-1).indices
    return mean_over_positions((best == labels.unsqueeze(-1)).any(-1) & scores.isfinite().all(-1), labels)


def pairs(outputs: Tensor, labels: Tensor) -> Tensor:
    """(prediction, label), [positions, 2]: for token labels each position is a sample."""
    both = torch.stack((predict(outputs, labels).reshape(-1), labels.reshape(-1).long()), 1)
    return both[both[:, 1] != IGNORED]


def f1(rows: Tensor) -> float:
    """Macro F1: the mean over all classes seen of 2 tp / (2 tp + fp + fn)."""
    predicted, labels = rows.long().unbind(1)
    size = int(rows.max()) + 1 if len(rows) else 1
    right = torch.bincount(labels[predicted == labels], minlength=size)
    both = torch.bincount(labels, minlength=size) + torch.bincount(predicted, minlength=size)
    seen = both > 0
    return float((2 * right[seen] / both[seen]).mean()) if seen.any() else math.nan


def values(outputs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and target as [n, values]; [n, 1] and [n] are the same."""
    flat, wanted = outputs.reshape(len(outputs), -1).double(), target.reshape(len(target), -1).double()
    if flat.shape != wanted.shape:
        raise LessenError(f"outputs {tuple(outputs.shape)} for target {tuple(target.shape)}", mend=MEND)
    return flat, wanted


def squared(outputs: Tensor, target: Tensor) -> Tensor:
    flat, wanted = values(outputs, target)
    return (flat - wanted).square().mean(1)


def absolute(outputs: Tensor, target: Tensor) -> Tensor:
    flat, wanted = values(outputs, target)
    return (flat - wanted).abs().mean(1)


def paired_values(outputs: Tensor, target: Tensor) -> Tensor:
    flat, wanted = values(outputs, target)
    if flat.shape[1] != 1:
        raise LessenError(f"Spearman ranks one number a sample, not {flat.shape[1]}", mend=MEND)
    return torch.cat((flat, wanted), 1)


def ranks(values: Tensor) -> Tensor:
    """Ranks with ties averaged, [n]."""
    _, inverse, counts = values.unique(return_inverse=True, return_counts=True)
    ends = counts.cumsum(0).double()
    return (ends - (counts - 1) / 2)[inverse]


def spearman(rows: Tensor) -> float:
    """Correlation of the ranks; 0 where one side is constant (nothing is ranked then)."""
    if not rows.isfinite().all():
        return math.nan
    a, b = (ranks(column) for column in rows.unbind(1))
    a, b = a - a.mean(), b - b.mean()
    norm = a.norm() * b.norm()
    return float(a @ b / norm) if norm > 0 else 0.0


def cosine(outputs: Tensor, reference: Tensor) -> Tensor:
    """Cosine of the angle between both answers; two answers of all zeros agree."""
    flat, wanted = values(outputs, reference)
    norms = flat.norm(dim=1) * wanted.norm(dim=1)
    cosine = (flat * wanted).sum(1) / norms
    return torch.where(norms == 0, (flat == wanted).all(1).double(), cosine.clamp(-1, 1))


def agreement(outputs: Tensor, reference: Tensor) -> Tensor:
    """Share of positions whose largest output is the same (classes last; of single numbers: on the same side)."""
    if single(outputs):
        side = 0.5 if bool(((reference >= 0) & (reference <= 1)).all()) else 0.0
        return ((outputs > side) == (reference > side)).reshape(len(outputs), -1).double().mean(1)
    axis = 1 if outputs.ndim == 4 else -1  # pictures keep their classes in axis 1
    same = largest(outputs.movedim(axis, -1)) == reference.movedim(axis, -1).argmax(-1)
    return same.reshape(len(outputs), -1).double().mean(1)


def kl(outputs: Tensor, reference: Tensor) -> Tensor:
    """KL(reference || outputs) of the softmaxes, in nats, mean over positions."""
    axis = 1 if outputs.ndim == 4 else -1
    p, q = reference.double().log_softmax(axis), outputs.double().log_softmax(axis)
    return (p.exp() * (p - q)).sum(axis).clamp_min(0).reshape(len(outputs), -1).mean(1)
