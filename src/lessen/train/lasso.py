"""`L1` and `GroupLasso`: a penalty that pulls weights, or whole rows of them, to zero while the network trains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import LessenError
from ..models.layer import Layer
from .masks import globally
from .rule import Rule, Weights
from .sparsifier import Sparsifier


def check_strength(strength: object, where: str) -> None:
    """`LessenError` unless the strength of a penalty is a number above 0."""
    if isinstance(strength, bool) or not isinstance(strength, (int, float)) or not 0 < strength < float("inf"):
        raise LessenError(f"strength={strength!r}", where=where, mend="give a number above 0 (1.0)")


@dataclass(frozen=True)
class L1(Sparsifier):
    """Adds strength * sum|w| / sum|w_0| to the loss, w_0 the weights at the start; then the smallest weights go.

    Tibshirani 1996; for networks Han et al. 2015, https://arxiv.org/abs/1506.02626. Dividing by the start makes the
    penalty as large as `strength` on any network. After half of the steps the largest weights of all layers together
    are kept, and trained further without the penalty, which would bias them.

    Args:
        strength: of the penalty at the start, in units of the loss.

    >>> sparser = lessen.apply(model, L1(sparsity=0.9, epochs=3), train_data)  # doctest: +SKIP
    """

    strength: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_strength(self.strength, "L1")

    def rule(self) -> Rule:
        return _L1(self.sparsity, self.strength)


class _L1(Rule):
    def __init__(self, sparsity: float, strength: float) -> None:
        super().__init__(sparsity, until=0.5)
        self.strength = strength

    def begin(self, weights: Weights, layers: object, generator: torch.Generator) -> None:
        self.scale = self.strength / max(sum(float(w.detach().abs().sum()) for w in weights.values()), 1e-12)

    def penalty(self, weights: Weights) -> Tensor:
        return self.scale * torch.stack([w.abs().sum() for w in weights.values()]).sum()

    def masks(self, weights: Weights) -> dict[str, Tensor]:
        return globally({n: w.detach().abs() for n, w in weights.items()}, self.sparsity)


@dataclass(frozen=True)
class GroupLasso(Sparsifier):
    """Adds a penalty on the norms of whole rows (filters, neurons); then the weakest rows go, with their biases.

    strength * sum_r |w_r|_2 / sum_r |w_r|_2 at the start. Wen et al. 2016, "Learning Structured Sparsity",
    https://arxiv.org/abs/1608.03665. Rows of linear and convolutional layers, but not of the last one, which are the
    network's answers. A row counts by its norm as a share of its layer's mean. `Channels` can then take the rows out.

    Args:
        sparsity: share of these rows that is zero at the end.
        strength: of the penalty at the start, in units of the loss.

    >>> slim = lessen.apply(model, GroupLasso(sparsity=0.5, epochs=3), train_data)  # doctest: +SKIP
    """

    sparsity: float = 0.5
    strength: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_strength(self.strength, "GroupLasso")

    def rule(self) -> Rule:
        return _GroupLasso(self.sparsity, self.strength)

    @classmethod
    def _offered(cls) -> Iterator[GroupLasso]:
        for sparsity in (0.25, 0.5):
            yield cls(sparsity)


class _GroupLasso(Rule):
    def __init__(self, sparsity: float, strength: float) -> None:
        super().__init__(sparsity, until=0.5)
        self.strength = strength

    def watched(self, student: nn.Module, layers: Mapping[str, Layer]) -> Iterable[str]:
        inner = [x for x in layers.values() if x.kind in ("linear", "conv")][:-1]
        if not inner:
            raise LessenError("there is no row that may go: only the last layer has any", where="GroupLasso",
                              mend="use a method for single weights: GMP, RigL")  # fmt: skip
        self.layers = {x.name: x for x in inner}
        self.biases = {n: b for n in self.layers if (b := _bias_of(student, n))}
        return (*self.layers, *self.biases.values())

    def begin(self, weights: Weights, layers: object, generator: torch.Generator) -> None:
        self.scale = self.strength / max(sum(float(r.detach().sum()) for r in self._norms(weights).values()), 1e-12)

    def _norms(self, weights: Weights) -> dict[str, Tensor]:
        return {n: x.to_matrix(weights[n]).square().sum(1).add(1e-12).sqrt() for n, x in self.layers.items()}

    def penalty(self, weights: Weights) -> Tensor:
        return self.scale * torch.stack([r.sum() for r in self._norms(weights).values()]).sum()

    def masks(self, weights: Weights) -> dict[str, Tensor]:
        norms = {n: r.detach() for n, r in self._norms(weights).items()}
        stay = globally({n: r / r.mean() for n, r in norms.items()}, self.sparsity)
        rows = {n: x.from_matrix(stay[n][:, None].expand(x.shape).to(x.weight.dtype)).bool()
                for n, x in self.layers.items()}  # fmt: skip
        return rows | {b: stay[n] for n, b in self.biases.items()}


def _bias_of(student: nn.Module, name: str) -> str:
    """Name of the bias that is added to what a weight gives; "" where there is none that learns."""
    bias = name.removesuffix("weight") + "bias"
    found = dict(student.named_parameters()).get(bias) if name.endswith("weight") else None
    return bias if found is not None and found.requires_grad else ""
