"""Operations that move values without changing them."""

from __future__ import annotations

import numpy as np

from lessen.models.groups.flow import Flow, Labels
from lessen.models.groups.rules.registry import arg, axis, nothing, rule
from lessen.models.groups.trace import Op, Ref


def blocks(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Smallest runs of dimensions of equal product, sizes of one left out.

    >>> blocks((2, 6, 4), (2, 2, 12))
    [([0], [0]), ([1, 2], [1, 2])]
    """
    a = [i for i, s in enumerate(old) if s != 1]
    b = [i for i, s in enumerate(new) if s != 1]
    out, i, j = [], 0, 0
    while i < len(a) and j < len(b):
        left, right, pa, pb = [a[i]], [b[j]], old[a[i]], new[b[j]]
        while pa != pb:
            if pa < pb:
                i += 1
                left.append(a[i])
                pa *= old[a[i]]
            else:
                j += 1
                right.append(b[j])
                pb *= new[b[j]]
        out.append((left, right))
        i, j = i + 1, j + 1
    return out


def _shuffled(flow: Flow, op: Op) -> bool:
    """A view whose dimensions are only permuted and merged again (channel shuffle), not worked on."""
    users = flow.trace.users
    at = op.out
    for _ in range(6):
        nexts = users.get(at.id, [])
        if len(nexts) != 1:
            return False
        name = nexts[0].func._schema.name.removeprefix("aten::")
        before, at = at, nexts[0].out
        if name in {"view", "_unsafe_view", "reshape"}:
            return sum(s > 1 for s in at.shape) < sum(s > 1 for s in before.shape)
        if name not in {"transpose", "permute", "clone", "contiguous"}:
            return False
    return False


@rule("view", "_unsafe_view", "reshape", "flatten", "unflatten")
def view(flow: Flow, op: Op) -> list[list[Labels]]:
    """Each block of dimensions is merged, then split."""
    source, out = op.args[0], op.out
    if 0 in source.shape:
        return nothing(op)
    old, new = flow.dims(source), list[Labels]([None] * out.ndim)
    for left, right in blocks(source.shape, out.shape):
        merged = flow.merge([old[i] for i in left], [source.shape[i] for i in left], op) if left[1:] else old[left[0]]
        if not right[1:]:
            new[right[0]] = merged
            continue
        shuffled = merged is not None and _shuffled(flow, op)
        sizes = [out.shape[i] for i in right]
        kind = "" if shuffled else "heads"
        parts = flow.split(merged, sizes, op, len(right) - 1 if shuffled else 0, kind)
        for i, part in zip(right, parts):
            new[i] = part
    return [new]


@rule("permute")
def permute(flow: Flow, op: Op) -> list[list[Labels]]:
    dims = flow.dims(op.args[0])
    return [[dims[axis(d, len(dims))] for d in op.args[1]]]


@rule("t", "numpy_T", "mT", "t_", "adjoint")
def flip_two(flow: Flow, op: Op) -> list[list[Labels]]:
    dims = flow.dims(op.args[0])
    return [[*dims[:-2], *dims[-2:][::-1]]]


@rule("transpose", "transpose_", "swapaxes")
def transpose(flow: Flow, op: Op) -> list[list[Labels]]:
    dims = flow.dims(op.args[0])
    a, b = axis(op.args[1], len(dims)), axis(op.args[2], len(dims))
    if dims:
        dims[a], dims[b] = dims[b], dims[a]
    return [dims]


@rule("unsqueeze", "unsqueeze_")
def unsqueeze(flow: Flow, op: Op) -> list[list[Labels]]:
    dims = flow.dims(op.args[0])
    dims.insert(op.args[1] % (len(dims) + 1), None)
    return [dims]


@rule("squeeze", "squeeze_")
def squeeze(flow: Flow, op: Op) -> list[list[Labels]]:
    """Dimensions of size one carry nothing: the others stay in order."""
    rest = [(s, d) for s, d in zip(op.args[0].shape, flow.dims(op.args[0])) if s != 1]
    parts = iter(d for _, d in rest)
    return [[None if s == 1 else next(parts) for s in op.out.shape]]


@rule("expand", "expand_as", "broadcast_to")
def expand(flow: Flow, op: Op) -> list[list[Labels]]:
    """A repeated dimension is as wide as whoever meets it."""
    source, dims = op.args[0], flow.dims(op.args[0])
    out: list[Labels] = []
    for back in range(op.out.ndim, 0, -1):
        size = op.out.shape[-back]
        if back <= source.ndim and source.shape[-back] == size:
            out.append(dims[-back])
        else:
            out.append(flow.fresh(size, flexible=True) if size > 1 else None)
    return [out]


@rule("repeat", "tile")
def repeat(flow: Flow, op: Op) -> list[list[Labels]]:
    source, times = op.args[0], list(op.args[1])
    dims: list[Labels] = [None] * (len(times) - source.ndim) + flow.dims(source)
    sizes = [1] * (len(times) - source.ndim) + list(source.shape)
    out: list[Labels] = []
    for dim, size, n in zip(dims, sizes, times):
        if size == 1:
            out.append(flow.fresh(n, flexible=True) if n > 1 else None)
        else:
            out.append(None if dim is None else np.tile(dim, n))
    return [out]


@rule("slice")
def cut(flow: Flow, op: Op) -> list[list[Labels]]:
    dims = flow.dims(op.args[0])
    dim = axis(arg(op, 1, "dim", 0), len(dims))
    if dims[dim] is not None:
        dims[dim] = dims[dim][slice(arg(op, 2, "start"), arg(op, 3, "end"), arg(op, 4, "step", 1))]
    return [dims]


@rule("narrow")
def narrow(flow: Flow, op: Op) -> list[list[Labels]]:
    dims = flow.dims(op.args[0])
    dim, start, length = axis(op.args[1], len(dims)), op.args[2], op.args[3]
    if dims[dim] is not None:
        dims[dim] = dims[dim][start : start + length]
    return [dims]


@rule("select")
def select(flow: Flow, op: Op) -> list[list[Labels]]:
    dims = flow.dims(op.args[0])
    gone = dims.pop(axis(op.args[1], len(dims)))
    if flow.trace.users.get(op.out.id) or op.out in flow.trace.outputs:  # else only its shape is looked at
        flow.block(gone, f"the code picks single indices of it ({op})")
    return [dims]


@rule("unbind")
def unbind(flow: Flow, op: Op) -> list[list[Labels]]:
    dims = flow.dims(op.args[0])
    gone = dims.pop(axis(arg(op, 1, "dim", 0), len(dims)))
    flow.block(gone, f"the code picks single indices of it ({op})")
    return [list(dims) for _ in op.outs]


@rule("split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk", "tensor_split")
def split(flow: Flow, op: Op) -> list[list[Labels]]:
    dims = flow.dims(op.args[0])
    dim, start, out = axis(arg(op, 2, "dim", 0), len(dims)), 0, []
    for ref in op.outs:
        part = list(dims)
        size = ref.shape[dim]
        if part[dim] is not None:
            part[dim] = part[dim][start : start + size] if size > 1 else None
            if size == 1:
                flow.block(dims[dim][start : start + 1], f"the code picks single indices of it ({op})")
        start += size
        out.append(part)
    return out


@rule("cat", "concat")
def cat(flow: Flow, op: Op) -> list[list[Labels]]:
    refs = [r for r in op.args[0] if r.shape != (0,)]
    dim = axis(arg(op, 1, "dim", 0), op.out.ndim)
    out: list[Labels] = []
    for d in range(op.out.ndim):
        parts = [flow.dims(r)[d] for r in refs]
        if d != dim:
            out.append(flow.join(parts, f"combined with values of fixed width ({op})"))
        elif all(p is None for p in parts):
            out.append(None)
        else:
            out.append(np.concatenate([_solid(flow, p, r.shape[d], op) for p, r in zip(parts, refs)]))
    return [out]


def _solid(flow: Flow, labels: Labels, size: int, op: Op) -> np.ndarray:
    """Labels, or atoms that must stay where there are none."""
    if labels is None:
        labels = flow.fresh(size)
        flow.block(labels, f"joined to values of fixed width ({op})")
    return labels


@rule("stack")
def stack(flow: Flow, op: Op) -> list[list[Labels]]:
    refs = op.args[0]
    joined: list[Labels] = [
        flow.join([flow.dims(r)[d] for r in refs], f"combined with values of fixed width ({op})")
        for d in range(refs[0].ndim)
    ]
    joined.insert(axis(arg(op, 1, "dim", 0), op.out.ndim), None)
    return [joined]


@rule(
    "constant_pad_nd",
    "pad",
    "reflection_pad1d",
    "reflection_pad2d",
    "replication_pad1d",
    "replication_pad2d",
    "reflection_pad3d",
    "replication_pad3d",
)
def pad(flow: Flow, op: Op) -> list[list[Labels]]:
    """Padding adds indices that anybody may drop."""
    dims, source, amounts = flow.dims(op.args[0]), op.args[0], list(op.args[1])
    for k in range(len(amounts) // 2):
        d, before, after = source.ndim - 1 - k, amounts[2 * k], amounts[2 * k + 1]
        if dims[d] is None or (before, after) == (0, 0):
            continue
        if min(before, after) < 0:
            flow.block(dims[d], f"cropped by a fixed amount ({op})")
            dims[d] = None
        else:
            dims[d] = np.concatenate([flow.fresh(before, True), dims[d], flow.fresh(after, True)])
    return [dims]


@rule("pixel_shuffle")
def pixel_shuffle(flow: Flow, op: Op) -> list[list[Labels]]:
    """[..., c r r, h, w] -> [..., c, h r, w r]: a channel is r r consecutive ones."""
    dims, r = flow.dims(op.args[0]), op.args[1]
    channels = dims[-3]
    if channels is not None:
        rows = channels.reshape(-1, r * r)
        flow.tie(np.repeat(rows[:, 0], r * r), channels)
        dims[-3] = rows[:, 0].copy() if len(rows) > 1 else None
        if len(rows) == 1:
            flow.block(channels, f"becomes a single channel ({op})")
    return [dims]


@rule("pixel_unshuffle")
def pixel_unshuffle(flow: Flow, op: Op) -> list[list[Labels]]:
    dims, r = flow.dims(op.args[0]), op.args[1]
    dims[-3] = None if dims[-3] is None else np.repeat(dims[-3], r * r)
    return [dims]


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(flow: Flow, op: Op) -> list[list[Labels]]:
    """View as (g, c / g), transpose, flatten: units are the same place in every group."""
    dims, g = flow.dims(op.args[0]), op.args[1]
    if dims[1] is not None:
        size = len(dims[1])
        inner = flow.split(dims[1], (g, size // g), op, 1)
        dims[1] = flow.merge(inner[::-1], (size // g, g), op)
    return [dims]


@rule("im2col")
def im2col(flow: Flow, op: Op) -> list[list[Labels]]:
    """[n, c, h, w] -> [n, c k, l]."""
    dims, source = flow.dims(op.args[0]), op.args[0]
    channels = dims[-3]
    k = op.out.shape[-2] // source.shape[-3]
    return [[*dims[:-3], None if channels is None else np.repeat(channels, k), None]]


def passing(flow: Flow, op: Op, source: Ref, fixed_dims: set[int], reason: str) -> list[Labels]:
    """Labels of `source` with some dimensions that must stay."""
    dims = flow.dims(source)
    for d in fixed_dims:
        flow.block(dims[d], f"{reason} ({op})")
        dims[d] = None
    return dims
