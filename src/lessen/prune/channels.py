"""`Channels`: whole channels, neurons and heads removed, so that the shapes in the file really shrink."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..errors import LessenError

CRITERIA = (
    "second_order",
    "taylor",
    "fisher",
    "magnitude",
    "wanda",
    "apoz",
    "mean_activation",
    "batchnorm_scale",
    "geometric_median",
)


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
    "fisher": sum of w^2 E[(dL/dw)^2] (Optimal Brain Damage: LeCun et al. 1990; Theis et al. 2018);
    "magnitude": sum of w^2 (Li et al. 2017);
    "wanda": sum of |w| ||x|| over the weights that make and read the unit (Sun et al. 2024);
    "apoz": share of the unit's activations that are not zero (1 - APoZ: Hu et al. 2016);
    "mean_activation": mean of |activation| (Molchanov et al. 2017, sec. 2.2);
    "batchnorm_scale": |scale| of the batch norm that it passes (network slimming: Liu et al. 2017);
    "geometric_median": summed distance to the other units' weights (FPGM: He et al. 2019).

    Only the first three predict a change of the loss; the others compare units within a network. Groups that a
    criterion says nothing of (no batch norm, no layer that reads them) are left alone.

    Args:
        fraction: share of the removable cost (parameters times their use) to take away, in (0, 1).
        criterion: one of the above.
        least: share of a group's units that always stays.
        multiple: what stays is rounded up to a multiple of this; 0: to what the target likes.
        head_width: in attention, make all heads narrower as well as fewer (values; queries and keys too where the
            criterion says something of them, as "taylor", "fisher" and "magnitude" do).
    """

    fraction: float = 0.25
    criterion: str = "second_order"
    least: float = 0.125
    multiple: int = 0
    head_width: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise LessenError(
                f"Channels can't remove a fraction of {self.fraction}", mend="between 0 and 1, ends excluded"
            )
        if self.criterion not in CRITERIA:
            raise LessenError(f"unknown criterion {self.criterion!r}", mend="one of: " + ", ".join(CRITERIA))
        if not 0 < self.least <= 1:
            raise LessenError(f"least must lie in (0, 1], not {self.least}")
        if self.multiple < 0:
            raise LessenError(f"channel counts can't be multiples of {self.multiple}", mend="0 or a positive number")

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
            multiple: channel counts that the target likes; the technique's own setting goes before it.

        Returns:
            group name -> removed units, and the summed importance of all that goes.

        Raises:
            LessenError: an importance that is not a number, or not one for each unit.
        """
        _check(groups, importance)
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
        kept = {g.name: rounded(removed[g.name], g, self.multiple or multiple) for g in groups}
        harm = sum(float(importance[name][list(units)].sum()) for name, units in kept.items() if units)
        return {name: tuple(sorted(units)) for name, units in kept.items() if units}, harm


def _check(groups: Sequence[Removable], importance: Mapping[str, Tensor]) -> None:
    for g in groups:
        if importance[g.name].shape != (g.size,):
            raise LessenError(f"{len(importance[g.name])} importances for {g.size} units", where=g.name)
        if bool(torch.isnan(importance[g.name]).any()):
            raise LessenError(
                "the importance of its units is not a number",
                where=g.name,
                mend="look for NaN in the layer's weights, in the calibration data, or in the loss",
            )


def _bargains(
    groups: Sequence[Removable], importance: Mapping[str, Tensor], costs: Mapping[str, float]
) -> Iterable[tuple[float, str, int]]:
    for g in groups:
        for unit, harm in enumerate(importance[g.name].tolist()):
            yield harm / max(costs[g.name], 1e-30), g.name, unit


def rounded(units: list[int], group: Removable, multiple: int) -> list[int]:
    """Fewer removals, the last ones of `units` spared first, until the channels that stay are a round number.

    A group narrower than two multiples fills none of the runtime's blocks as it is: half the multiple does for it.
    """
    stay = group.size - len(units)
    step = max(1, multiple // group.unit) if multiple % group.unit == 0 or group.unit == 1 else 1
    while step > 1 and 2 * step > group.size:
        step //= 2
    wanted = min(group.size, -(-stay // step) * step)
    return units[: group.size - wanted]
