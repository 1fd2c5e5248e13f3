"""The observer of the first batches, which run forward and backward: sums of inputs and gradients in one pass."""

from __future__ import annotations

from torch import Tensor

from ..models.layer import Layer
from .columns import Convolution
from .fisher import Fisher
from .sums import Sums


class Both:
    """Tells the one of what comes in, the other of the gradients; and forgets in both."""

    def __init__(self, fisher: Fisher, sums: Sums) -> None:
        self.fisher, self.sums = fisher, sums

    @property
    def samples(self) -> int:
        """Samples whose inputs are summed up."""
        return self.sums.seen

    def starts(self, samples: int) -> None:
        self.sums.starts(samples)
        self.fisher.starts(samples)

    def begin_again(self) -> None:
        self.fisher.begin_again()
        self.sums.begin_again()

    def runs_backward(self, inputs: tuple[Tensor, ...]) -> None:
        self.fisher.runs_backward(inputs)

    def forget_inputs(self) -> None:
        self.fisher.forget_inputs()

    def reached(self) -> bool:
        return self.fisher.reached()

    def rows(self, layer: Layer, x: Tensor) -> None:
        self.fisher.rows(layer, x)
        self.sums.rows(layer, x)

    def image(self, layer: Layer, x: Tensor, conv: Convolution) -> None:
        self.fisher.image(layer, x, conv)
        self.sums.image(layer, x, conv)

    def lookups(self, layer: Layer, indices: Tensor) -> None:
        self.sums.lookups(layer, indices)

    def gradients(self, layer: Layer, grads: Tensor, start: int) -> None:
        self.fisher.gradients(layer, grads, start)

    def lookup_gradients(self, layer: Layer, grads: Tensor) -> None:
        self.fisher.lookup_gradients(layer, grads)
