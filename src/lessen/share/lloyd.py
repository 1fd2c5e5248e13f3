"""One-dimensional k-means, weighted and in batches, on sorted values: each round costs K lookups, not n."""

from __future__ import annotations

import torch
from torch import Tensor

_BINS = 512  # of the start's histogram
_FINE = 1 << 14  # bins that long rows are first gathered in; each is then one weighted value
_ROUNDS = 200


def kmeans(values: Tensor, weights: Tensor, clusters: int) -> Tensor:
    """Centroids that minimise sum_j weights_j (v_j - nearest centroid)^2 for each row.

    Starts at the quantiles of the cube root of the density, which is optimal for many clusters (Panter & Dite 1951),
    or of the exact optimum on a histogram for few, then Lloyd's rounds on prefix sums.

    Args:
        values: float [n, m]; weights: float [n, m] or [1, m], not negative.

    Returns:
        centroids, float32 [n, clusters], ascending.
    """
    few = _distinct(values, clusters)
    if few is not None:
        return few.float()
    if values.shape[1] > 4 * _FINE:
        weights, _, values = _histogram(values.double(), weights.double(), _FINE)
    v, order = values.sort(dim=1)
    v, w = v.double().contiguous(), weights.expand(values.shape).gather(1, order).double().clamp_min(1e-30)
    sums = _prefix(w), _prefix(w * v)
    centroids = _start(v, w, clusters)
    near = 1e-6 if len(v) == 1 else 1e-4
    for _ in range(_ROUNDS):
        moved, before = _round(v, sums, centroids), centroids
        centroids = moved
        if float((moved - before).abs().max()) <= near * float(moved.abs().max()):
            break
    return centroids.float()


def _distinct(v: Tensor, clusters: int) -> Tensor | None:
    """The values themselves, if no row has more than `clusters` different ones."""
    if v.shape[1] > 4096 and len(v[:, :4096].unique()) > clusters * len(v):
        return None  # a glance at the first ones saves sorting millions
    v = v.sort(dim=1).values
    number = torch.nn.functional.pad((v[:, 1:] != v[:, :-1]).long().cumsum(1), (1, 0))
    if int(number[:, -1].max()) >= clusters:
        return None
    return v[:, -1:].repeat(1, clusters).scatter_(1, number, v)


def _prefix(x: Tensor) -> Tensor:
    return torch.cat([x.new_zeros(len(x), 1), x.cumsum(1)], 1)


def _round(v: Tensor, sums: tuple[Tensor, Tensor], centroids: Tensor) -> Tensor:
    """Each centroid to the mean of what is nearest to it; empty ones stay."""
    edges = torch.searchsorted(v, ((centroids[:, 1:] + centroids[:, :-1]) / 2).contiguous())
    first = torch.zeros_like(edges[:, :1]) if edges.shape[1] else edges.new_zeros(len(v), 1)
    bounds = torch.cat([first, edges, first + v.shape[1]], 1)
    mass, moment = (s.gather(1, bounds).diff(dim=1) for s in sums)
    return torch.where(mass > 1e-25, moment / mass.clamp_min(1e-25), centroids).sort(dim=1).values


def _start(v: Tensor, w: Tensor, clusters: int) -> Tensor:
    if len(v) == 1 and clusters <= 32:
        mass, moment, at = _histogram(v, w, _BINS)
        return _exact(mass[0], moment[0], at[0], clusters)[None]
    bins = min(_BINS, max(2 * clusters, v.shape[1] // 8))
    mass, _, _ = _histogram(v, w, bins)
    spread = _prefix(mass.pow(1 / 3))
    wanted = (torch.arange(clusters, dtype=torch.float64) + 0.5) / clusters * spread[:, -1:]
    index = (torch.searchsorted(spread.contiguous(), wanted.contiguous()) - 1).clamp(0, bins - 1)
    into = (wanted - spread.gather(1, index)) / spread.diff(dim=1).gather(1, index).clamp_min(1e-30)
    return v[:, :1] + (index + into) * (v[:, -1:] - v[:, :1]) / bins


def _histogram(v: Tensor, w: Tensor, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weight, weighted sum and mean value of equal bins of each row."""
    low, high = v.amin(1, keepdim=True), v.amax(1, keepdim=True)
    width = torch.where(high > low, (high - low) / bins, torch.ones_like(high))
    index = ((v - low) / width).long().clamp_(0, bins - 1)
    mass, moment = (torch.zeros(len(v), bins, dtype=v.dtype).scatter_add_(1, index, x) for x in (w, w * v))
    middle = low + (torch.arange(bins, dtype=v.dtype) + 0.5) * width
    return mass, moment, torch.where(mass > 0, moment / mass.clamp_min(1e-30), middle)


def _exact(mass: Tensor, moment: Tensor, at: Tensor, clusters: int) -> Tensor:
    """The optimum over all ways to cut the bins into runs, by dynamic programming (Fisher 1958)."""
    m, s, q = (torch.cat([x.new_zeros(1), x.cumsum(0)]) for x in (mass, moment, mass * at * at))
    weight = (m[None] - m[:, None]).clamp_min(1e-30)
    cost = (q[None] - q[:, None]) - (s[None] - s[:, None]).square() / weight  # of the run i .. j
    cost = torch.where(torch.ones_like(cost).triu().bool(), cost.clamp_min(0), torch.inf)
    best, cuts = cost[0], []
    for _ in range(clusters - 1):
        best, cut = (best[:, None] + cost).min(0)
        cuts.append(cut)
    bounds = [len(mass)]
    for cut in reversed(cuts):
        bounds.append(int(cut[bounds[-1]]))
    edges = torch.tensor([0, *reversed(bounds)])
    total = (m[edges[1:]] - m[edges[:-1]]).clamp_min(1e-30)
    means = (s[edges[1:]] - s[edges[:-1]]) / total
    return torch.where(edges[1:] > edges[:-1], means, at[edges[1:].clamp_max(len(at) - 1)]).sort().values
