"""Seeing each use of a weight: one dispatch mode that knows the weights by the memory they lie in.

Modules differ in how they hold and call their weights (`nn.Linear`, fused attention, recurrent cells, a bare
parameter in a product); the handful of ATen operators below them does not. A weight is recognised by its storage,
whatever views (transposed, cut, expanded) lead from the parameter to the operator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..models.layer import Layer
from .columns import Convolution

aten = torch.ops.aten
_LARGE = 2**23  # bytes of a convolution's input


class Observer(Protocol):
    """Who is told of each use."""

    def rows(self, layer: Layer, x: Tensor) -> None:
        """`x` [n, columns] was multiplied with the weight."""

    def image(self, layer: Layer, x: Tensor, conv: Convolution) -> None:
        """`x` [samples, channels, *space] was convolved with the weight."""

    def lookups(self, layer: Layer, indices: Tensor) -> None:
        """Rows of the weight were looked up."""

    def gradients(self, layer: Layer, grads: Tensor, start: int) -> None:
        """The loss gradient [n, k] arrived at the layer's outputs start ... start + k."""

    def lookup_gradients(self, layer: Layer, grads: Tensor) -> None:
        """The loss gradient [n, columns] arrived at what an embedding returned."""


@dataclass(frozen=True, eq=False)
class Watched:
    """A weight in memory."""

    layer: Layer
    weight: Tensor

    def holds(self, view: Tensor) -> bool:
        first = self.weight.storage_offset()
        return first <= view.storage_offset() < first + self.weight.numel()


class Watch(TorchDispatchMode):
    """While it is on, tells `observer` of every use of the given weights."""

    def __init__(self, weights: Mapping[str, Tensor], layers: Iterable[Layer], observer: Observer) -> None:
        super().__init__()
        self.observer = observer
        self.backward = False
        self._by_storage: dict[int, list[Watched]] = {}
        self._looked_up: dict[tuple[int, int, int], list[Layer]] = {}
        for layer in layers:
            weight = weights[layer.name]
            self._by_storage.setdefault(weight.untyped_storage().data_ptr(), []).append(Watched(layer, weight))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        handler = _HANDLERS.get(func)
        if handler is not None:
            handler(self, args)
        return self.run(func, args, kwargs or {})

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The operator itself, after the observer was told."""
        return _sample_by_sample(func, args) if _large(func, args) else func(*args, **kwargs)

    def find(self, tensor: Tensor) -> Watched | None:
        """The watched weight that `tensor` is a view of."""
        if not self._by_storage or tensor.layout is not torch.strided:
            return None
        here = self._by_storage.get(tensor.untyped_storage().data_ptr(), ())
        return next((w for w in here if w.holds(tensor)), None)

    def product(self, rows: Tensor, weight: Tensor) -> None:
        """`rows` [n, k] @ `weight` [k, m], where the second may be a view of something watched."""
        found = self.find(weight)
        if found is None or found.layer.kind not in ("linear", "recurrent"):
            return
        axis, layer = found.layer.out_axis, found.layer
        outputs, inputs = found.weight.shape[axis], found.weight.numel() // found.weight.shape[axis]
        out_stride, in_stride = found.weight.stride(axis), found.weight.stride(1 - axis)
        k, m = weight.shape
        if not self.backward and k == inputs and (weight.stride(0) == in_stride or 1 in (k, m)):
            self.observer.rows(layer, rows)
        elif self.backward and m == inputs and k <= outputs and (weight.stride(0) == out_stride or 1 in (k, m)):
            start = (weight.storage_offset() - found.weight.storage_offset()) // max(out_stride, 1)
            self.observer.gradients(layer, rows, min(start, outputs - k))

    def convolution(self, x: Tensor, weight: Tensor, conv: Convolution) -> None:
        found = self.find(weight)
        if found is not None and found.layer.kind in ("conv", "conv_transpose"):
            self.observer.image(found.layer, x, conv)

    def convolution_gradient(self, grads: Tensor, weight: Tensor) -> None:
        found = self.find(weight)
        if found is not None and found.layer.kind in ("conv", "conv_transpose"):
            self.observer.gradients(found.layer, grads.movedim(1, -1).reshape(-1, grads.shape[1]), 0)

    def lookup(self, weight: Tensor, indices: Tensor) -> None:
        found = self.find(weight)
        if found is not None and found.layer.kind == "embedding":
            self.observer.lookups(found.layer, indices)
            self._looked_up.setdefault((*_place(indices), len(weight)), []).append(found.layer)

    def lookup_gradient(self, grads: Tensor, indices: Tensor, rows: int) -> None:
        layers = self._looked_up.get((*_place(indices), rows), [])
        if len(layers) == 1:  # with two tables of one size and the same indices nobody could tell them apart
            self.observer.lookup_gradients(layers[0], grads.reshape(-1, grads.shape[-1]))

    def forget(self) -> None:
        """Between batches: memory is used again, so places mean nothing any more."""
        self._looked_up.clear()


def _large(func: Any, args: Any) -> bool:
    """Whether it is a convolution of so many samples that what its kernel makes on the way is worth sparing."""
    x = args[0] if func is aten.convolution.default else None
    return x is not None and len(x) > 1 and x.nbytes >= _LARGE and x.is_contiguous()


def _sample_by_sample(func: Any, args: Any) -> Tensor:
    """The same: kernels reorder input and output in copies, here of one sample at a time.

    To the bit on the networks that this was measured on; very small ones may get another kernel for one sample.
    """
    whole: Tensor | None = None
    for i, x in enumerate(args[0].split(1)):
        y = func(x, *args[1:])
        whole = y.new_empty((len(args[0]), *y.shape[1:])) if whole is None else whole
        whole[i] = y[0]
    assert whole is not None
    return whole


def _place(tensor: Tensor) -> tuple[int, int]:
    return (tensor.data_ptr(), tensor.numel())


def _mm(left: Tensor, right: Tensor, watch: Watch) -> None:
    watch.product(left, right)
    watch.product(right.t(), left.t())


def _bmm(left: Tensor, right: Tensor, watch: Watch) -> None:
    if right.stride(0) == 0 or right.shape[0] == 1:
        watch.product(left.reshape(-1, left.shape[-1]), right[0])
    if left.stride(0) == 0 or left.shape[0] == 1:
        watch.product(right.transpose(1, 2).reshape(-1, right.shape[1]), left[0].t())


def _conv(watch: Watch, args: Any) -> None:
    _, _, _, stride, padding, dilation, transposed, output_padding, groups = args[:9]
    n = args[1].ndim - 2
    sizes = (tuple(v) * (n if len(v) == 1 else 1) for v in (stride, padding, dilation, output_padding))
    stride, padding, dilation, output_padding = sizes
    watch.convolution(args[0], args[1], Convolution(stride, padding, dilation, transposed, output_padding, groups))


_HANDLERS: dict[Any, Callable[[Watch, Any], None]] = {
    aten.mm.default: lambda w, a: _mm(a[0], a[1], w),
    aten.addmm.default: lambda w, a: _mm(a[1], a[2], w),
    aten.bmm.default: lambda w, a: _bmm(a[0], a[1], w),
    aten.baddbmm.default: lambda w, a: _bmm(a[1], a[2], w),
    aten.mv.default: lambda w, a: w.product(a[1][None], a[0].t()),
    aten.addmv.default: lambda w, a: w.product(a[2][None], a[1].t()),
    aten.convolution.default: _conv,
    aten.convolution_backward.default: lambda w, a: w.convolution_gradient(a[0], a[2]),
    aten.embedding.default: lambda w, a: w.lookup(a[0], a[1]),
    aten.embedding_dense_backward.default: lambda w, a: w.lookup_gradient(a[0], a[1], int(a[2])),
}
