"""Products that need not be computed: only shapes matter to the labels, so long as no code looks at the values.

A convolution or matrix product hands on zeros of the right shape, and what is made of them is *hollow*. An operation
that would look at hollow values (a number for Python, a shape that depends on data, an integer, a mask) raises
`Looked`: the forward is then recorded once more with every value computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_LOOKS = frozenset({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape})
_HARMLESS = frozenset({"max_pool2d_with_indices", "max_pool3d_with_indices"})  # indices that only a gradient reads


class Looked(Exception):
    """The network's code looks at a value that was not computed."""


class Hollow:
    """Which tensors are hollow, and the zeros that stand for products."""

    def __init__(self) -> None:
        self.ids: set[int] = set()

    def product(self, func: Any, args: tuple) -> Tensor | None:
        """Zeros in the shape of a product's result; None where it must be computed."""
        shaped = _SHAPES.get(func)
        if shaped is None or any(isinstance(a, Tensor) and not _plain(a) for a in args):
            return None
        shape = shaped(args)
        return None if shape is None else args[0].new_zeros(shape)

    def spread(self, func: Any, reads: bool, outs: tuple) -> bool:
        """Whether the results are hollow too, given whether the operation reads hollow values.

        Raises:
            Looked: it would look at them.
        """
        if not reads:
            return False
        if _LOOKS & set(func.tags) and not _masks_nothing(func):
            raise Looked
        told = [t for t in outs if isinstance(t, Tensor) and not t.is_floating_point() and not t.is_complex()]
        if told and func._schema.name.removeprefix("aten::") not in _HARMLESS:
            raise Looked
        return True


def _masks_nothing(func: Any) -> bool:
    """`index` has a shape that depends on data only where a mask is an index, and masks are never hollow."""
    return func is torch.ops.aten.index.Tensor


def _plain(t: Tensor) -> bool:
    return type(t) in (Tensor, torch.nn.Parameter) and t.is_floating_point() and t.layout is torch.strided


def _convolution(args: tuple) -> tuple[int, ...] | None:
    x, weight, _, stride, padding, dilation, transposed = args[:7]
    if transposed or not x.is_contiguous() or not weight.is_contiguous() or x.ndim != weight.ndim:
        return None
    rank, kernel = x.ndim - 2, weight.shape[2:]
    wide = [tuple(v) * rank if len(v) == 1 else tuple(v) for v in (stride, padding, dilation)]
    space = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in zip(x.shape[2:], kernel, *wide)]
    return (x.shape[0], weight.shape[0], *space) if min(space) > 0 and x.shape[1] % weight.shape[1] == 0 else None


def _matrices(a: Tensor, b: Tensor) -> tuple[int, ...] | None:
    fits = a.ndim == b.ndim and a.shape[:-2] == b.shape[:-2] and a.shape[-1] == b.shape[-2] and a.dtype == b.dtype
    return (*a.shape[:-1], b.shape[-1]) if fits else None


def _product(args: tuple) -> tuple[int, ...] | None:
    return _matrices(args[0], args[1])


def _sum_product(args: tuple) -> tuple[int, ...] | None:
    shape = _matrices(args[1], args[2])
    return shape if shape is not None and args[0].shape in (shape, shape[-1:]) else None


_SHAPES: dict[Any, Callable[[tuple], tuple[int, ...] | None]] = {
    torch.ops.aten.convolution.default: _convolution,
    torch.ops.aten.mm.default: _product,
    torch.ops.aten.bmm.default: _product,
    torch.ops.aten.addmm.default: _sum_product,
}
