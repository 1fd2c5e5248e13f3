"""What a weight matrix is multiplied with: the input columns of each operator, a deterministic sample of positions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_FEWEST, _MOST = 32, 512  # positions taken of one sample
_CHEAP = 8192  # columns x positions that cost little
_PATCH_ELEMENTS = 8_000_000  # patches held at once: 32 MB


@dataclass(frozen=True)
class Convolution:
    """The geometry of one call of `aten.convolution`."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int


def worth_taking(positions: int, rows: int, columns: int) -> int:
    """Positions of one sample for the second moment, so that it costs about what the layer itself costs."""
    columns = max(columns, 1)
    cheap = max(min(256, _CHEAP // columns), min(_MOST, positions * rows // columns))
    return min(positions, max(_FEWEST, min(4 * columns, cheap)))


def sample_rows(x: Tensor, samples: int, rows: int, generator: torch.Generator) -> Tensor:
    """At most what is worth taking of the rows of `x` [n, columns], as float32 [1, n', columns]."""
    n, columns = x.shape
    keep = samples * worth_taking(max(-(-n // max(samples, 1)), 1), rows, columns)
    if keep < n:
        x = x[torch.randperm(n, generator=generator)[:keep].sort().values]
    return x.float().unsqueeze(0)


def patches(x: Tensor, kernel: Sequence[int], conv: Convolution, rows: int, generator: torch.Generator) -> Tensor:
    """Input columns of a convolution, float32 [groups, n, in/groups * kernel positions].

    Args:
        x: input [samples, channels, *space].
        kernel: sizes of the kernel.
        rows: output channels; decides with the columns how many positions are worth taking.
    """
    x, stride = _spread(x.float(), kernel, conv) if conv.transposed else (_padded(x.float(), conv.padding), conv.stride)
    axes = list(zip(x.shape[2:], kernel, stride, conv.dilation, strict=True))
    space = tuple((n - d * (k - 1) - 1) // s + 1 for n, k, s, d in axes)
    taken = _positions(x.shape, space, math.prod(kernel), conv.groups, rows, generator)
    places = taken.new_zeros(1, 1)  # [taken positions, kernel positions] in the input
    for (n, k, s, d), at in zip(axes, torch.unravel_index(taken, space), strict=True):
        steps = torch.arange(k).flip(0) if conv.transposed else torch.arange(k)  # that reads its kernel backwards
        places = ((places * n).unsqueeze(-1) + (at[:, None] * s + steps * d).unsqueeze(1)).flatten(1)
    (samples, channels), flat = x.shape[:2], x.reshape(x.shape[0] * x.shape[1], -1)
    picked = flat.gather(1, places.reshape(1, -1).expand(len(flat), -1))  # quicker than indexing windows
    del x, flat  # padded, a copy of the whole input
    split = picked.reshape(samples, conv.groups, channels // conv.groups, len(taken), -1)
    return split.permute(1, 0, 3, 2, 4).reshape(conv.groups, samples * len(taken), -1)


def observations(x: Tensor, kernel: Sequence[int], conv: Convolution, rows: int) -> int:
    """How many rows `patches` will return for this input, n."""
    space, axes = 1, zip(x.shape[2:], kernel, conv.stride, conv.padding, conv.dilation, strict=True)
    for axis, (n, k, s, p, d) in enumerate(axes):
        wide = (n - 1) * s + 1 + 2 * (d * (k - 1) - p) + conv.output_padding[axis] if conv.transposed else n + 2 * p
        space *= (wide - d * (k - 1) - 1) // (1 if conv.transposed else s) + 1
    return x.shape[0] * min(space, _most(x.shape, space, math.prod(kernel), conv.groups, rows))


def _positions(
    shape: Sequence[int], space: Sequence[int], window: int, groups: int, rows: int, generator: torch.Generator
) -> Tensor:
    count = math.prod(space)
    keep = _most(shape, count, window, groups, rows)
    return torch.randperm(count, generator=generator)[:keep].sort().values if keep < count else torch.arange(count)


def _most(shape: Sequence[int], count: int, window: int, groups: int, rows: int) -> int:
    keep = worth_taking(count, rows // groups, shape[1] // groups * window)
    room = _PATCH_ELEMENTS // max(shape[0] * shape[1] * window, 1)
    return max(1, min(keep, room))


def _padded(x: Tensor, padding: Sequence[int]) -> Tensor:
    both = [p for size in reversed(padding) for p in (size, size)]
    return F.pad(x, both) if any(both) else x


def _spread(x: Tensor, kernel: Sequence[int], conv: Convolution) -> tuple[Tensor, tuple[int, ...]]:
    """The input of the ordinary convolution (stride 1) that a transposed one is: zeros between, and a border."""
    sizes = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], conv.stride, strict=True)]
    wide = x.new_zeros(*x.shape[:2], *sizes)
    wide[(slice(None), slice(None), *(slice(None, None, s) for s in conv.stride))] = x
    border: list[int] = []
    for k, p, d, extra in zip(kernel, conv.padding, conv.dilation, conv.output_padding, strict=True):
        border = [d * (k - 1) - p, d * (k - 1) - p + extra, *border]
    return F.pad(wide, border), (1,) * len(conv.stride)
