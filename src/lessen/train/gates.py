"""One gate for every unit of every group: a number that multiplies the unit's columns in all weights that read it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..errors import LessenError
from ..models.groups import Group, Grouping, Member, find_groups, readers
from ..models.layer import Layer
from ..prune.channels import rounded

Opened = Mapping[str, Tensor]  # group -> [size], how far each unit's gate is open, 0 to 1


class Gates:
    """The units of a network that gates can close, and what closing them saves.

    A gate at 0 is the unit's removal (`models.groups.readers`); in between lies the relaxed mask. Groups of which that
    is not true, or of which a layer is not to be touched, are in `left` with the reason.

    Raises:
        LessenError: there is no such group.
    """

    def __init__(
        self, student: nn.Module, layers: Sequence[Layer], inputs: tuple[Tensor, ...], multiple: int = 1
    ) -> None:
        self.inputs, self.multiple = inputs, multiple
        self.grouping: Grouping = find_groups(student, inputs)
        reading, self.left = readers(self.grouping)
        self.groups = {g.name: g for g in self.grouping.groups if g.name in reading and g.size > 1}
        self._leave(student, {x.name for x in layers}, reading)
        if not self.groups:
            raise LessenError("no unit can be gated", where=", ".join(self.left) or "the network", mend=self._why())
        self.read = _by_tensor(self.groups.values(), reading)
        self.macs_of, self.part = _costs(layers, self.groups)
        if not float(self.macs_of.sum()):
            raise LessenError("none of its units costs a multiplication", where="the network")

    def _leave(self, student: nn.Module, able: set[str], reading: Mapping[str, tuple[Member, ...]]) -> None:
        """Frozen and unnamed weights are not touched."""
        parameters = dict(student.named_parameters())
        for name in list(self.groups):
            paths = [m.path for m in (*reading[name], *self.groups[name].members)]
            why = next((w for p in paths if (w := _untouchable(p, parameters.get(p), able, reading[name]))), "")
            if why:
                self.left[name] = why
                del self.groups[name]

    def _why(self) -> str:
        return (
            "; ".join(dict.fromkeys(self.left.values())) or "a group has at least two units: see find_groups(...).left"
        )

    def open(self, value: float) -> dict[str, Tensor]:
        """One number a unit, all the same."""
        return {name: torch.full((g.size,), value) for name, g in self.groups.items()}

    def through(self, name: str, weight: Tensor, opened: Opened) -> Tensor:
        """A weight that reads units, each unit's columns multiplied by its gate."""
        for group, member in self.read[name]:
            gates = opened[group].to(weight)
            each = gates.new_ones(weight.shape[member.dim]).index_copy(
                0, torch.as_tensor(member.index).flatten(), gates.repeat_interleave(member.index.shape[1])
            )
            weight = weight * each.reshape([-1 if d == member.dim else 1 for d in range(weight.ndim)])
        return weight

    def macs(self, opened: Opened) -> Tensor:
        """Share of the layers' multiply-adds that is left: of each, what is left of its inputs times its outputs."""
        gone = torch.stack([(1 - opened[name]).sum() for name in self.groups])
        return (self.macs_of * (1 - self.part @ gone).prod(1)).sum() / self.macs_of.sum()

    def closing(self, scores: Opened, sparsity: float) -> dict[str, tuple[int, ...]]:
        """The units with the lowest scores, as few as leave at most 1 - sparsity of the multiply-adds.

        The best unit of every group stays; what stays of a group is rounded up to the multiple.

        Raises:
            LessenError: so much can't go.
        """
        order = _order(scores)
        low, high = 0, len(order)
        if float(self.macs(self.without(self._first(order, high)))) > 1 - sparsity + 1e-6:
            raise self._too_much(sparsity, float(self.macs(self.without(self._first(order, high)))))
        while low < high:
            middle = (low + high) // 2
            enough = float(self.macs(self.without(self._first(order, middle)))) <= 1 - sparsity + 1e-6
            low, high = (low, middle) if enough else (middle + 1, high)
        return {n: tuple(sorted(units)) for n, units in self._first(order, high).items() if units}

    def _too_much(self, sparsity: float, least: float) -> LessenError:
        mend = f"ask for less than {1 - least:.2f}" if least < 1 else "use multiple=1, or another method"
        left = "; ".join(f"{n}: {why}" for n, why in self.left.items())
        what = f"{sparsity:.1%} of the multiply-adds can't go: {least:.1%} of them stay whatever is closed"
        return LessenError(what + (f" (left alone: {left})" if left else ""), mend=mend)

    def _first(self, order: Sequence[tuple[str, int]], count: int) -> dict[str, list[int]]:
        taken: dict[str, list[int]] = {name: [] for name in self.groups}
        for name, unit in order[:count]:
            taken[name].append(unit)
        return {n: rounded(units, self.groups[n], self.multiple) for n, units in taken.items()}

    def without(self, closed: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
        opened = self.open(1.0)
        for name, units in closed.items():
            opened[name][list(units)] = 0
        return opened

    def masks(self, weights: Mapping[str, Tensor], closed: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
        """bool, by weight: False in the columns of the closed units."""
        opened = self.without(closed)
        return {n: self.through(n, torch.ones_like(w), opened).bool() for n, w in weights.items()}


def _untouchable(path: str, parameter: Tensor | None, able: set[str], reading: Sequence[Member]) -> str:
    """Why this tensor may not be trained and cut, or an empty string; buffers that nothing multiplies may."""
    if parameter is None:
        return f"{path}, which reads them, does not learn" if any(m.path == path for m in reading) else ""
    if not parameter.requires_grad:
        return f"{path} is frozen"
    return f"{path} is not among the layers to work on" if parameter.ndim > 1 and path not in able else ""


def _order(scores: Opened) -> list[tuple[str, int]]:
    """Units by score, the lowest first; without the best of each group."""
    best = {name: int(s.argmax()) for name, s in scores.items()}
    found = [(v, name, u) for name, s in scores.items() for u, v in enumerate(s.tolist()) if u != best[name]]
    return [(name, u) for _, name, u in sorted(found)]


def _by_tensor(
    groups: Iterable[Group], reading: Mapping[str, tuple[Member, ...]]
) -> dict[str, list[tuple[str, Member]]]:
    found: dict[str, list[tuple[str, Member]]] = {}
    for group in groups:
        for member in reading[group.name]:
            found.setdefault(member.path, []).append((group.name, member))
    return found


def _costs(layers: Sequence[Layer], groups: Mapping[str, Group]) -> tuple[Tensor, Tensor]:
    """Multiply-adds [layers], and what share a unit of a group has in a weight's dimension [layers, 6, groups]."""
    place = {layer.name: i for i, layer in enumerate(layers)}
    macs = torch.tensor([float(layer.macs) for layer in layers])
    part = torch.zeros(len(layers), 6, len(groups))
    for at, group in enumerate(groups.values()):
        for m in group.members:
            if m.path in place:
                size = layers[place[m.path]].weight.shape[m.dim]
                part[place[m.path], m.dim, at] += m.index.shape[1] / size
    return macs, part
