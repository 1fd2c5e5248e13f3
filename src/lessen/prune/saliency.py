"""What gradients say of single weights, and what stands in for them where there are none."""

from __future__ import annotations

from torch import Tensor

from ..models.layer import Layer
from ..statistics.fallback import fall_back
from ..statistics.problem import problem
from ..statistics.statistics import Statistics


def first_order(layer: Layer, statistics: Statistics, kind: str) -> Tensor:
    """|w| * |E[g]| (kind "mean") or |w| * sqrt(E[g^2]) over mini-batches ("square"), g the gradient of the task's loss.

    Without labels, or where no gradient arrives, `second_order`.

    Returns:
        float32 [rows, columns].
    """
    found = _gradient(layer, statistics, kind)
    if found is None:
        fall_back(layer.name, "no gradient of the task's loss (no labels?): ranked by the Fisher information")
        return second_order(layer, statistics)
    return _weight(layer, statistics) * (found.abs() if kind == "mean" else found.sqrt())


def second_order(layer: Layer, statistics: Statistics) -> Tensor:
    """|w| * sqrt(F), F = E[g^2] over samples, or its Kronecker-factored estimate where no gradient arrives.

    The estimate is G_r E[x_j^2]; what is not known of it counts as 1.

    Returns:
        float32 [rows, columns].
    """
    weight, found = _weight(layer, statistics), _gradient(layer, statistics, "fisher")
    if found is not None:
        return weight * found.sqrt()
    known = [word for word, part in (("G", statistics.G), ("E[x^2]", statistics.H)) if part is not None]
    fall_back(layer.name, f"no gradients of single weights: ranked by w^2 {' '.join(known)}".rstrip())
    diagonal = statistics.diagonal(layer.shape[1])
    columns = diagonal.sqrt().repeat_interleave(layer.shape[0] // len(diagonal), 0)
    return weight * statistics.row_weights(layer.shape[0]).sqrt()[:, None] * columns


def _weight(layer: Layer, statistics: Statistics) -> Tensor:
    return problem(layer, statistics).matrix.abs()  # which checks that both are sound and fit each other


def _gradient(layer: Layer, statistics: Statistics, kind: str) -> Tensor | None:
    """None where there is none, or where the layer is only a part of the one that gradients are of (a factor)."""
    found: Tensor | None = None if statistics.gradients is None else getattr(statistics.gradients, kind)
    return found if found is not None and found.shape == layer.shape else None
