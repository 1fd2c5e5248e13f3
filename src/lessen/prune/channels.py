"""`Channels`: whole channels, neurons and heads removed, so that the shapes in the file really shrink."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..errors import LessenError

CRITERIA = ("second_order", "taylor", "magnitude")


class Removable(Protocol):
    """What is needed to know of a group: see `models.groups.Group`."""

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def unit(self) -> int: ...


@dataclass(frozen=True)
class Channels:
    """Structured pruning over dimension groups.

    Importance of a unit u:
    "second_order": what is left of its removal after every layer that reads it was refitted on the units that stay
    (Optimal Brain Surgeon over columns: Kurtic et al. 2023, ZipLM, eq. 2);
    "taylor": E[(sum_{w in u} w dL/dw)^2], the squared first-order change of the loss (Molchanov et al. 2019, eq. 8);
    "magnitude": sum of w^2 (Li et al. 2017).

    Args:
        fraction: share of the removable cost (parameters times their use) to take away, in (0, 1).
        criterion: "second_order", "taylor" or "magnitude".
        least: share of a group's units that always stays.
    """

    fraction: float = 0.25
    criterion: str = "second_order"
    least: float = 0.125

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise LessenError(
                f"Channels can't remove a fraction of {self.fraction}", mend="between 0 and 1, ends excluded"
            )
        if self.criterion not in CRITERIA:
            raise LessenError(f"unknown criterion {self.criterion!r}", mend="one of: " + ", ".join(CRITERIA))
        if not 0 < self.least <= 1:
            raise LessenError(f"least must lie in (0, 1], not {self.least}")

    @classmethod
    def offers(cls) -> tuple[Channels, ...]:
        return tuple(cls(f) for f in (0.05, 0.1, 0.2, 0.3, 0.45, 0.6))

    def rank(self, groups: Sequence[Removable], importance: Mapping[str, Tensor], costs: Mapping[str, float],
             multiple: int = 1) -> tuple[dict[str, tuple[int, ...]], float]:  # fmt: skip
        """Chooses the units to remove.

        Args:
            groups: what can shrink.
            importance: predicted harm of removing each unit, [size] per group.
            costs: what one unit of each group costs (any unit; only proportions count).
            multiple: channel counts that the target likes; what stays is rounded up to it.

        Returns:
            group name -> removed units, and the summed importance of all that goes.
        """
        goal = self.fraction * sum(g.size * costs[g.name] for g in groups)
        removed: dict[str, list[int]] = {g.name: [] for g in groups}
        left = {g.name: g.size - max(1, round(self.least * g.size)) for g in groups}
        gone = 0.0
        for _, name, unit in sorted(_bargains(groups, importance, costs)):
            if gone >= goal:
                break
            if left[name] > 0:
                removed[name].append(unit)
                left[name] -= 1
                gone += costs[name]
        kept = {g.name: _rounded(removed[g.name], g, multiple) for g in groups}
        harm = sum(float(importance[name][list(units)].sum()) for name, units in kept.items() if units)
        return {name: tuple(sorted(units)) for name, units in kept.items() if units}, harm


def _bargains(
    groups: Sequence[Removable], importance: Mapping[str, Tensor], costs: Mapping[str, float]
) -> Iterable[tuple[float, str, int]]:
    for g in groups:
        for unit, harm in enumerate(importance[g.name].tolist()):
            yield harm / max(costs[g.name], 1e-30), g.name, unit


def _rounded(units: list[int], group: Removable, multiple: int) -> list[int]:
    """Fewer removals, the most important spared first, until the channels that stay are a round number."""
    stay = group.size - len(units)
    step = max(1, multiple // group.unit) if multiple % group.unit == 0 or group.unit == 1 else 1
    wanted = min(group.size, -(-stay // step) * step)
    return units[: group.size - wanted]


def taylor(owned: Mapping[str, Sequence[tuple[Tensor, int, Tensor]]]) -> dict[str, Tensor]:
    """(sum over a unit's weights of w * grad)^2, per unit, for one batch whose gradients are in `.grad`.

    Args:
        owned: group name -> (parameter, dim, indices [size, per unit]).
    """
    return {name: _per_unit(members, lambda p: p * p.grad if p.grad is not None else p * 0).square()
            for name, members in owned.items()}  # fmt: skip


def magnitude(owned: Mapping[str, Sequence[tuple[Tensor, int, Tensor]]]) -> dict[str, Tensor]:
    """Sum of squares of a unit's weights, per unit."""
    return {name: _per_unit(members, lambda p: p * p) for name, members in owned.items()}


def _per_unit(members: Sequence[tuple[Tensor, int, Tensor]], score: Callable[[Tensor], Tensor]) -> Tensor:
    total: Tensor | None = None
    for parameter, dim, indices in members:
        with torch.no_grad():
            values = score(parameter).double().movedim(dim, 0)
        values = values.flatten(1).sum(1) if values.ndim > 1 else values
        part = values[indices.flatten()].reshape(indices.shape[0], -1).sum(1)
        total = part if total is None else total + part
    assert total is not None
    return total
