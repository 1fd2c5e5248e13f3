"""`Slimming`: a penalty on the scales of batch norms shows which channels a network can do without."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import LessenError
from ..models.layer import Layer
from .lasso import check_strength
from .masks import globally
from .rule import Rule, Weights
from .sparsifier import Sparsifier


@dataclass(frozen=True)
class Slimming(Sparsifier):
    """Adds strength * sum|gamma| / sum|gamma_0| to the loss; then the channels with the smallest |gamma| go silent.

    Liu et al. 2017, "Network Slimming", https://arxiv.org/abs/1708.06519: one threshold for all batch norms. A silent
    channel has gamma = beta = 0; `Channels` can then take it out.

    Args:
        sparsity: share of the channels behind batch norms that is silent at the end.
        strength: of the penalty at the start, in units of the loss.

    >>> slim = lessen.apply(model, Slimming(sparsity=0.4, epochs=3), train_data)  # doctest: +SKIP
    """

    sparsity: float = 0.4
    strength: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_strength(self.strength, "Slimming")

    def rule(self) -> Rule:
        return _Slimming(self.sparsity, self.strength)

    @classmethod
    def _offered(cls) -> Iterator[Slimming]:
        for sparsity in (0.2, 0.4):
            yield cls(sparsity)


class _Slimming(Rule):
    def __init__(self, sparsity: float, strength: float) -> None:
        super().__init__(sparsity, until=0.5)
        self.strength = strength

    def watched(self, student: nn.Module, layers: Mapping[str, Layer]) -> Iterable[str]:
        norms = [n for n, m in student.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.affine]
        learn = {n for n, p in student.named_parameters() if p.requires_grad}
        self.scales = [f"{n}.weight" for n in norms if f"{n}.weight" in learn and f"{n}.bias" in learn]
        if not self.scales:
            raise LessenError("the network has no batch norm with a scale that learns", where="Slimming",
                              mend="use GroupLasso, which needs none")  # fmt: skip
        return [name for scale in self.scales for name in (scale, _shift(scale))]

    def begin(self, weights: Weights, layers: object, generator: torch.Generator) -> None:
        self.scale = self.strength / max(sum(float(weights[n].detach().abs().sum()) for n in self.scales), 1e-12)

    def penalty(self, weights: Weights) -> Tensor:
        return self.scale * torch.stack([weights[n].abs().sum() for n in self.scales]).sum()

    def masks(self, weights: Weights) -> dict[str, Tensor]:
        stay = globally({n: weights[n].detach().abs() for n in self.scales}, self.sparsity)
        return {name: stay[n] for n in self.scales for name in (n, _shift(n))}


def _shift(scale: str) -> str:
    return scale.removesuffix("weight") + "bias"
