"""What is known of every weight of a layer before it is pruned, as numbers that mean the same in every network."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..models.layer import KINDS, Layer
from ..statistics.problem import problem
from ..statistics.statistics import Statistics

NAMES = (
    "magnitude", "input", "output", "fisher", "row", "column", "rank", "harm", "free", "fan_in", "size", "kernel",
    "position", *KINDS,
)  # fmt: skip
HARM = NAMES.index("harm")
_LIMIT = 4.0


def features(layer: Layer, statistics: Statistics, position: float = 0.5) -> Tensor:
    """float32 [rows x columns, len(NAMES)], each within [-4, 4]; 0 where nothing is known.

    Logarithms relative to the layer's mean: of |w|; of its input (E[x_j^2]); of the gradient at its output (G_r); of
    the gradient at the weight (Fisher information); of the norms of its row and its column. Its rank by |w|, 0 to 1;
    the logarithm of the predicted harm of its loss, w^2 F / 2, not relative to anything: it compares layers; how much
    of its input the other inputs don't tell, 1 / (H_jj [H^-1]_jj). Of the layer: inputs of an output, weights, distance
    from the middle of the kernel, its place in the network, its kind.

    Args:
        position: share of the network's layers before this one.
    """
    p = problem(layer, statistics)
    w = p.matrix.abs()
    inputs, outputs = p.column_weights().expand(w.shape), p.G[:, None].expand(w.shape)
    fisher = _fisher(layer, statistics, inputs * outputs)
    size = statistics.diagonal(layer.shape[1]).double().mean() * statistics.row_weights(len(w)).double().mean()
    harm = 0.5 * w.double().square() * fisher * (size if statistics.samples else 1.0)
    known = {
        "magnitude": _relative(w), "input": _relative(inputs) / 2, "output": _relative(outputs) / 2,
        "fisher": _relative(fisher) / 2, "row": _relative(w.square().mean(1, keepdim=True)) / 2,
        "column": _relative(w.square().mean(0, keepdim=True)) / 2, "rank": _rank(w) * 2 - 1,
        "harm": (harm.clamp_min(1e-30).log10() + 6) / 3, "free": _free(p.H, w.shape),
        "fan_in": torch.tensor(math.log(w.shape[1]) / 2 - 2), "size": torch.tensor(math.log10(w.numel()) - 4),
        "kernel": _from_middle(layer), "position": torch.tensor(2 * position - 1),
    }  # fmt: skip
    kinds = {k: torch.tensor(float(k == layer.kind)) for k in KINDS}
    columns = [(known | kinds)[n].float().expand(w.shape).flatten() for n in NAMES]
    return torch.stack(columns, 1).clamp_(-_LIMIT, _LIMIT)


def _fisher(layer: Layer, statistics: Statistics, estimate: Tensor) -> Tensor:
    """The Fisher information of each weight, in units of its mean estimate; the estimate where there is none."""
    found = None if statistics.gradients is None else statistics.gradients.fisher
    if found is None or found.shape != layer.shape or not bool(found.any()):
        return estimate
    return found / found.mean() * estimate.mean()


def _relative(x: Tensor) -> Tensor:
    """log(x / mean of x)."""
    mean = x.double().mean()
    return (x.double() / mean).clamp_min(1e-6).log() if mean > 0 else torch.zeros_like(x)


def _rank(w: Tensor) -> Tensor:
    order = w.flatten().argsort(stable=True)
    rank = torch.empty(len(order)).scatter_(0, order, torch.arange(len(order)).float())
    return (rank / max(len(order) - 1, 1)).reshape(w.shape)


def _free(H: Tensor | None, shape: tuple[int, ...] | torch.Size) -> Tensor:
    """log of the share of each input that the others don't tell."""
    if H is None:
        return torch.zeros(1)
    damped = H.double() + 0.01 * torch.eye(H.shape[-1]) * H.diagonal(dim1=-2, dim2=-1).mean()
    inverse, bad = torch.linalg.inv_ex(damped)
    if bool(bad.any()):
        return torch.zeros(1)
    share = 1 / (damped.diagonal(dim1=-2, dim2=-1) * inverse.diagonal(dim1=-2, dim2=-1)).clamp_min(1.0)
    return (share.log() / 2 + 1).repeat_interleave(shape[0] // len(share), 0)


def _from_middle(layer: Layer) -> Tensor:
    """Distance of each weight from the middle of its kernel, in half kernels; 0 for anything but convolutions."""
    if not layer.kind.startswith("conv"):
        return torch.zeros(1)
    sizes = layer.weight.shape[2:]
    axes = [torch.linspace(-1, 1, k) if k > 1 else torch.zeros(1) for k in sizes]
    distance = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()
    return layer.to_matrix(distance.expand(layer.weight.shape))
