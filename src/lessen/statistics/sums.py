"""The observer of the pass over all data: running sums of what each layer reads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..models.layer import Layer
from .columns import Convolution, patches, sample_rows
from .moments import Lookups, Moments
from .unread import those_read


class Sums:
    """Running sums of all layers; those that follow a leader read the same inputs and hold none of their own."""

    def __init__(self, layers: Sequence[Layer], leaders: dict[str, str]) -> None:
        self.layers = layers
        self.leaders = {layer.name: leaders.get(layer.name, layer.name) for layer in layers}
        self.begin_again()

    def begin_again(self) -> None:
        """Forget everything seen so far."""
        self.moments = {leader: Moments() for leader in self.leaders.values()}
        self.lookups_by = {x.name: Lookups(x.shape[0]) for x in self.layers if x.kind == "embedding"}
        self.positions: dict[str, int] = {}
        self.generator = torch.Generator().manual_seed(0)
        self.samples, self.seen = 1, 0
        self.read: Tensor | None = None

    def starts(self, samples: int, read: Tensor | None = None) -> None:
        """A batch of so many samples comes next; `read` says which of its positions are, bool [n * t]."""
        self.read = read
        self.samples = max(samples, 1)
        self.seen += samples

    def of(self, layer: Layer) -> Moments:
        """The sums of what this layer reads."""
        return self.moments[self.leaders[layer.name]]

    def _leads(self, layer: Layer) -> Moments | None:
        return self.moments.get(layer.name)

    def rows(self, layer: Layer, x: Tensor) -> None:
        self.positions[layer.name] = self.positions.get(layer.name, 0) + len(x)
        if (moments := self._leads(layer)) is not None and len(x):
            moments.range(x, by_column=True)
            moments.add(sample_rows(those_read(x, self.read), self.samples, layer.shape[0], self.generator))

    def image(self, layer: Layer, x: Tensor, conv: Convolution) -> None:
        self.positions[layer.name] = self.positions.get(layer.name, 0) + outputs_of(layer, x, conv) * len(x)
        if (moments := self._leads(layer)) is not None and x.numel():
            moments.range(x)
            moments.add(patches(x, layer.weight.shape[2:], conv, layer.shape[0], self.generator))

    def lookups(self, layer: Layer, indices: Tensor) -> None:
        self.positions[layer.name] = self.positions.get(layer.name, 0) + indices.numel()
        self.lookups_by[layer.name].count(indices)

    def gradients(self, layer: Layer, grads: Tensor, start: int) -> None:
        """The pass of the sums runs forward only."""

    def lookup_gradients(self, layer: Layer, grads: Tensor) -> None:
        """The pass of the sums runs forward only."""


def outputs_of(layer: Layer, x: Tensor, conv: Convolution) -> int:
    """Output positions of a convolution for one sample."""
    total = 1
    per_axis = zip(x.shape[2:], layer.weight.shape[2:], conv.stride, conv.padding, conv.dilation, strict=True)
    for axis, (n, k, s, p, d) in enumerate(per_axis):
        spread = (n - 1) * s - 2 * p + d * (k - 1) + conv.output_padding[axis] + 1
        total *= spread if conv.transposed else (n + 2 * p - d * (k - 1) - 1) // s + 1
    return total
