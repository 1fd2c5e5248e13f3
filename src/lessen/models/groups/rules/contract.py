"""Matrix products, convolutions, attention and look-ups: where one layer's rows meet the next one's columns."""

from __future__ import annotations

import numpy as np

from lessen.models.groups.flow import Flow, Labels
from lessen.models.groups.rules.registry import arg, block_all, nothing, rule
from lessen.models.groups.trace import Op, Ref


def _out(flow: Flow, ref: Ref, labels: Labels, op: Op) -> Labels:
    if flow.is_static(ref):
        flow.role(labels, "out", op)
    return labels


def _bias(flow: Flow, bias: Ref | None, out: list[Labels], shape: tuple[int, ...], op: Op) -> None:
    """A summand, broadcast from the right."""
    if bias is None:
        return
    for back, (size, labels) in enumerate(zip(bias.shape[::-1], flow.dims(bias)[::-1]), 1):
        if size > 1 and size == shape[-back]:
            flow.join([labels, out[-back]], f"combined with values of fixed width ({op})")


def _matrix_product(flow: Flow, op: Op, at: int, bias: Ref | None) -> list[list[Labels]]:
    a, b = op.args[at], op.args[at + 1]
    flow.contract((a, a.ndim - 1, at), (b, max(0, b.ndim - 2), at + 1), op)
    da, db = flow.dims(a), flow.dims(b)
    batch = [flow.join([x, y], f"combined with values of fixed width ({op})") for x, y in zip(da[:-2], db[:-2])]
    row = [_out(flow, a, da[-2], op)] if a.ndim > 1 else []
    out = [*batch, *row, *([_out(flow, b, db[-1], op)] if b.ndim > 1 else [])]
    _bias(flow, bias, out, op.out.shape, op)
    return [out]


@rule("mm", "bmm", "mv", "dot", "matmul")
def product(flow: Flow, op: Op) -> list[list[Labels]]:
    """[..., m, k] x [..., k, n]."""
    return _matrix_product(flow, op, 0, None)


@rule("addmm", "baddbmm", "addmv", "addmm_", "baddbmm_")
def add_product(flow: Flow, op: Op) -> list[list[Labels]]:
    """bias + a b."""
    return _matrix_product(flow, op, 1, op.args[0])


@rule("_grouped_mm")
def grouped_product(flow: Flow, op: Op) -> list[list[Labels]]:
    """x [n, k], one matrix [k, m] for each run of rows: weight [e, k, m]."""
    a, b = op.args[0], op.args[1]
    if (a.ndim, b.ndim) != (2, 3):
        block_all(flow, op, f"grouped product of this form ({op})")
        return nothing(op)
    flow.contract((a, 1, 0), (b, 1, 1), op)
    return [[flow.dims(a)[0], _out(flow, b, flow.dims(b)[2], op)]]


@rule("linear")
def linear(flow: Flow, op: Op) -> list[list[Labels]]:
    """x [..., k], weight [n, k], bias [n]."""
    x, weight, bias = op.args[0], op.args[1], arg(op, 2, "bias")
    flow.contract((x, x.ndim - 1, 0), (weight, 1, 1), op)
    out = [*flow.dims(x)[:-1], _out(flow, weight, flow.dims(weight)[0], op)]
    _bias(flow, bias, out, op.out.shape, op)
    return [out]


@rule("convolution", "_convolution", "convolution_overrideable")
def convolution(flow: Flow, op: Op) -> list[list[Labels]]:
    """x [n, c, ...], weight [out, c / groups, ...], or [c, out / groups, ...] when transposed."""
    x, weight, bias, transposed, groups = *op.args[:3], op.args[6], op.args[8]
    _fix_space(flow, x, op)
    if groups == 1:
        flow.contract((x, 1, 0), (weight, 0 if transposed else 1, 1), op)
        out = flow.dims(weight)[1 if transposed else 0]
    else:
        out = _grouped(flow, op, x, weight, transposed, groups)
    _out(flow, weight, out, op)
    if bias is not None:
        flow.join([flow.dims(bias)[0], out], f"bias ({op})")
    return [[flow.dims(x)[0], out, *[None] * (op.out.ndim - 2)]]


def _fix_space(flow: Flow, x: Ref, op: Op) -> None:
    for labels in flow.dims(x)[2:]:
        flow.block(labels, f"slid over by a window ({op})")


def _grouped(flow: Flow, op: Op, x: Ref, weight: Ref, transposed: bool, groups: int) -> Labels:
    """Whole groups go (their outputs with them), or the same place in every group does."""
    inputs, per_in = flow.dims(x)[1], x.shape[1] // groups
    rows, columns = flow.dims(weight)[:2]
    if transposed:  # weight [c, out / groups]: rows are inputs, every group has its own row block
        total = weight.shape[1] * groups
        inputs = flow.join([inputs, rows], f"fixed input ({op})")
        flow.role(rows, "in", op)
        return _transposed_groups(flow, op, inputs, columns, groups, total)
    if inputs is None:
        flow.block(columns, f"fixed input ({op})")
        return _within(flow, rows, groups, weight.shape[0], op)
    carriers = flow.split(inputs, (groups, per_in), op, 0 if groups >= per_in else 1)
    if carriers[0] is not None or per_in == 1:  # whole groups
        flow.block(columns, f"each group keeps its inputs ({op})")
        if rows is not None:
            flow.tie(np.repeat(carriers[0], weight.shape[0] // groups), rows)
        return rows
    flow.tie(carriers[1], columns) if columns is not None else flow.block(carriers[1], f"single input ({op})")
    flow.role(columns, "in", op)
    flow.limit(op, "zero", [(0, 1, inputs)])
    return _within(flow, rows, groups, weight.shape[0], op)


def _within(flow: Flow, rows: Labels, groups: int, size: int, op: Op) -> Labels:
    """Outputs of a grouped convolution whose groups all stay: each must lose as many as the others."""
    if rows is None:
        return None
    if size == groups:
        flow.block(rows, f"one output for each group, and the groups stay ({op})")
        return rows
    flow.tie(np.tile(rows[: size // groups], groups), rows)
    return rows


def _transposed_groups(flow: Flow, op: Op, inputs: Labels, columns: Labels, groups: int, total: int) -> Labels:
    if inputs is None:
        return None if columns is None else np.tile(columns, groups)
    per_out = total // groups
    carriers = flow.split(inputs, (groups, len(inputs) // groups), op, 0)
    if carriers[0] is None:
        return None if columns is None else np.tile(columns, groups)
    flow.block(columns, f"each group keeps its outputs ({op})")
    return np.repeat(carriers[0], per_out)


@rule("embedding", "embedding_renorm_")
def embedding(flow: Flow, op: Op) -> list[list[Labels]]:
    """weight [v, c], indices [...]."""
    table, indices = op.args[0], op.args[1]
    rows, columns = flow.dims(table)
    flow.block(rows, f"looked up by the data ({op})")
    flow.role(columns, "out", op)
    for labels in flow.dims(indices):
        flow.block(labels, f"used as an index ({op})")
    return [[*[None] * indices.ndim, columns]]


@rule("_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(flow: Flow, op: Op) -> list[list[Labels]]:
    rows, columns = flow.dims(op.args[0])
    flow.block(rows, f"looked up by the data ({op})")
    flow.role(columns, "out", op)
    return [[None, columns], *([None] * r.ndim if isinstance(r, Ref) else [] for r in op.outs[1:])]


@rule(
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_attention_math",
    "scaled_dot_product_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
)
def attention(flow: Flow, op: Op) -> list[list[Labels]]:
    """q [b, h, t, d], k [b, g, s, d], v [b, g, s, e], h a multiple of g."""
    q, k, v = op.args[:3]
    dq, dk, dv = (flow.dims(r) for r in (q, k, v))
    kv = [flow.join([a, b], f"keys and values ({op})") for a, b in zip(dk[:-1], dv[:-1])]
    times = q.shape[-3] // k.shape[-3] if q.ndim > 2 else 1
    if times > 1 and kv[-2] is not None:
        kv[-2] = np.repeat(kv[-2], times)
    heads = [flow.join([a, b], f"queries and keys ({op})") for a, b in zip(dq[:-2], kv[:-1])]
    if times > 1 and kv[-2] is None and k.shape[-3] == 1:
        heads = dq[:-2]
    mask = arg(op, 9, "attn_mask")
    if isinstance(mask, Ref) and mask.ndim > 2 and mask.shape[-3] > 1:
        flow.join([heads[-1], flow.dims(mask)[-3]], f"mask of fixed width ({op})")
    flow.block(kv[-1], f"inside attention ({op})")  # the length
    if flow.head_width and arg(op, 99, "scale") is not None:
        flow.contract((q, q.ndim - 1, 0), (k, k.ndim - 1, 1), op)
    else:
        for labels in (dq[-1], dk[-1]):  # the scale is made of the width, or nobody asked for it
            flow.block(labels, f"inside attention ({op})")
    out = [*heads, dq[-2], dv[-1]]
    return [
        out if i == 0 else [*heads, *[None] * (r.ndim - len(heads))] if isinstance(r, Ref) else []
        for i, r in enumerate(op.outs)
    ]
