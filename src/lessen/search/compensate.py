"""What reads removed channels takes over their work: closed-form least squares on the second moment of the inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..bench import Bench
from ..models import Layer
from ..models.groups import Group

DAMPING = 1e-4  # of the mean diagonal
STEPS = 64  # removals between two looks at a group


def readers(bench: Bench, group: Group) -> Iterator[tuple[Layer, Tensor]]:
    """(layer, its columns by unit [size, columns per unit]) of every layer that reads the group's units."""
    layers = bench.layers
    for member in group.members:
        layer = layers.get(member.path)
        if layer is None or layer.groups != 1 or layer.kind not in ("linear", "conv") or member.dim == layer.out_axis:
            continue
        statistics = bench.statistics.get(layer.name)
        if statistics is None or statistics.H is None or member.dim != 1 - layer.out_axis:
            continue
        kernel = layer.shape[1] // layer.weight.shape[member.dim]
        index = torch.as_tensor(member.index).reshape(group.size, -1)
        yield layer, (index[:, :, None] * kernel + torch.arange(kernel)).flatten(1)


def second_order(bench: Bench, groups: Sequence[Group]) -> dict[str, Tensor]:
    """Harm of removing each unit when its readers are compensated: the structured Optimal Brain Surgeon.

    1/2 sum_r G_r w_rC ([H^-1]_CC)^-1 w_rC^T over the columns C of a unit, summed over the readers
    (Hassibi & Stork 1993; Kurtic et al. 2023, ZipLM, eq. 2). Units go one after the other, the least harmful first,
    and W and H^-1 are updated each time, so that a unit is charged for what it costs once the earlier ones are gone.
    Groups without a reader that has statistics are left out.
    """
    problems = {g.name: [_Reader.of(bench, layer, columns) for layer, columns in readers(bench, g)] for g in groups}
    return {g.name: _ordered(g.size, problems[g.name]) for g in groups if problems[g.name]}


def _ordered(size: int, problem: list[_Reader]) -> Tensor:
    harms = torch.full((size,), torch.inf, dtype=torch.float64)
    left, highest = torch.arange(size), 0.0
    while len(left) > 1:
        now = sum((r.harm(left) for r in problem), torch.zeros(len(left), dtype=torch.float64))
        places = now.argsort(stable=True)[: max(1, size // STEPS)]
        for place in places.tolist():
            highest = max(highest, float(now[place]))
            harms[left[place]] = highest
        for r in problem:
            r.remove(left[places])
        left = left[~torch.isin(torch.arange(len(left)), places)]
    return harms


@dataclass(eq=False)
class _Reader:
    """One layer that reads a group: its weight, the inverse of its second moment, and its columns by unit."""

    W: Tensor
    inverse: Tensor
    G: Tensor
    columns: Tensor

    @classmethod
    def of(cls, bench: Bench, layer: Layer, columns: Tensor) -> _Reader:
        statistics = bench.statistics[layer.name]
        assert statistics.H is not None
        W = layer.matrix.double()
        G = torch.ones(len(W), dtype=torch.float64) if statistics.G is None else statistics.G.double()
        return cls(W.clone(), torch.linalg.inv(_damped(statistics.H[0].double())), G, columns)

    def harm(self, units: Tensor) -> Tensor:
        columns = self.columns[units]
        blocks = self.inverse[columns[:, :, None], columns[:, None, :]]  # [units, c, c]
        w = self.W[:, columns].transpose(0, 1)  # [units, rows, c]
        error = (w * torch.linalg.solve(blocks, w.transpose(1, 2)).transpose(1, 2)).sum(-1)
        return 0.5 * (error.clamp_min(0) * self.G).sum(1)

    def remove(self, units: Tensor) -> None:
        gone = self.columns[units].flatten()
        block = self.inverse[gone][:, gone]
        solved = torch.linalg.solve(block, self.inverse[gone])  # [c, columns]
        self.W -= self.W[:, gone] @ solved
        self.inverse -= self.inverse[:, gone] @ solved
        self.inverse[gone, gone] += 1.0  # keeps later solves regular; these columns are not looked at again
        self.W[:, gone] = 0


def _damped(H: Tensor) -> Tensor:
    return H + torch.eye(len(H), dtype=H.dtype) * (DAMPING * H.diagonal().mean().clamp_min(1e-12))


@torch.no_grad()
def compensate(
    module: nn.Module, bench: Bench, groups: Mapping[str, Group], units: Mapping[str, Sequence[int]]
) -> None:
    """Refits, in place, every reader of removed units on what stays: W' = W H_:k H_kk^-1, and its bias with it."""
    gone: dict[str, list[Tensor]] = {}
    layers = bench.layers
    for name, removed in units.items():
        for layer, columns in readers(bench, groups[name]):
            gone.setdefault(layer.name, []).append(columns[list(removed)].flatten())
    for name, parts in gone.items():
        _refit(module, bench, layers[name], torch.cat(parts).unique())


def _refit(module: nn.Module, bench: Bench, layer: Layer, removed: Tensor) -> None:
    statistics = bench.statistics[layer.name]
    owner, leaf = module.get_submodule(layer.module), layer.name.rpartition(".")[2]
    bias = getattr(owner, "bias", None) if leaf == "weight" else None
    H, W = statistics.H, layer.matrix.double()
    assert H is not None
    if isinstance(bias, Tensor) and statistics.mean is not None:
        mean = statistics.mean[0].double()[:, None]
        whole = torch.cat([torch.cat([H[0].double(), mean], 1), torch.cat([mean.T, torch.ones(1, 1).double()], 1)])
        W = torch.cat([W, torch.zeros(len(W), 1, dtype=W.dtype)], 1)
    else:
        whole = H[0].double()
    kept = torch.ones(len(whole), dtype=torch.bool)
    kept[removed] = False
    damped = _damped(whole)
    solved = torch.linalg.solve(damped[kept][:, kept], damped[kept] @ W.T).T
    columns = layer.shape[1]
    fresh = torch.zeros_like(layer.matrix)
    fresh[:, kept[:columns]] = solved[:, : int(kept[:columns].sum())].float()
    getattr(owner, leaf).copy_(layer.from_matrix(fresh))
    if len(whole) > columns and isinstance(bias, Tensor):
        bias.add_(solved[:, -1].to(bias.dtype))
