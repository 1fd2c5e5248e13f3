"""Operations that reorder, pick or write by index: what they index must stay, the other dimensions pass."""

from __future__ import annotations

from lessen.models.groups.flow import Flow, Labels
from lessen.models.groups.rules.registry import arg, axis, nothing, rule
from lessen.models.groups.rules.shape import passing
from lessen.models.groups.trace import Op, Ref


@rule("roll", "flip")
def roll(flow: Flow, op: Op) -> list[list[Labels]]:
    dims = flow.dims(op.args[0])
    moved = arg(op, 2, "dims", ()) if op.func._schema.name == "aten::roll" else op.args[1]
    for d in {axis(d, len(dims)) for d in moved}:
        flow.block(dims[d], f"its order is changed by the code ({op})")
        dims[d] = None
    return [dims]


@rule("unfold")
def windows(flow: Flow, op: Op) -> list[list[Labels]]:
    dims = flow.dims(op.args[0])
    d = axis(op.args[1], len(dims))
    flow.block(dims[d], f"cut into windows ({op})")
    dims[d] = None
    return [[*dims, None]]


@rule("index_select")
def index_select(flow: Flow, op: Op) -> list[list[Labels]]:
    dims = flow.dims(op.args[0])
    d = axis(op.args[1], len(dims))
    flow.block(dims[d], f"indexed by the data ({op})")
    dims[d] = None
    return [dims]


@rule("index", "_unsafe_index")
def index(flow: Flow, op: Op) -> list[list[Labels]]:
    """Indexed dimensions stay; the others pass."""
    dims, indices = flow.dims(op.args[0]), list(op.args[1])
    indices += [None] * (len(dims) - len(indices))
    picked = [d for d, i in enumerate(indices) if isinstance(i, Ref)]
    for d in picked:
        known = flow.trace.indices.get(indices[d].id)
        flow.block(dims[d] if known is None or dims[d] is None else dims[d][known], f"indexed by the data ({op})")
    passed = [labels for d, labels in enumerate(dims) if d not in picked]
    width = op.out.ndim - len(passed)
    contiguous = picked == list(range(picked[0], picked[-1] + 1)) if picked else False
    if width < 0 or not picked:
        return nothing(op)
    start = picked[0] if contiguous else 0
    return [[*passed[:start], *[None] * width, *passed[start:]]]


@rule(
    "index_add",
    "index_add_",
    "scatter_add",
    "scatter_add_",
    "scatter",
    "scatter_",
    "index_copy",
    "index_copy_",
    "scatter_reduce",
    "index_fill",
    "index_fill_",
)
def along(flow: Flow, op: Op) -> list[list[Labels]]:
    """Written to along one dimension, which stays; the others are those of the values."""
    source = op.args[0]
    d = axis(op.args[1], source.ndim)
    dims = passing(flow, op, source, {d}, "indexed by the data") if source.ndim else []
    for value in (a for a in op.args[2:] if isinstance(a, Ref) and a.ndim == source.ndim):
        given = flow.dims(value)
        flow.block(given[d], f"indexed by the data ({op})")
        for k in range(source.ndim):
            if k != d and value.shape[k] == source.shape[k] > 1 and "scatter" not in op.func._schema.name:
                dims[k] = flow.join([dims[k], given[k]], f"combined with values of fixed width ({op})")
            elif "scatter" in op.func._schema.name:
                flow.block(given[k], f"indexed by the data ({op})")
                flow.block(dims[k], f"indexed by the data ({op})")
    return [dims]


@rule("gather")
def gather(flow: Flow, op: Op) -> list[list[Labels]]:
    """Indices [same rank]: their dimensions are the output's; those of the source that they cover stay."""
    source = op.args[0]
    for labels in flow.dims(source):
        flow.block(labels, f"indexed by the data ({op})")
    for labels in flow.dims(op.args[2]):
        flow.block(labels, f"used as an index ({op})")
    return nothing(op)


@rule("as_strided", "_reshape_alias_copy")
def as_strided(flow: Flow, op: Op) -> list[list[Labels]]:
    for labels in flow.dims(op.args[0]):
        flow.block(labels, f"addressed by raw strides ({op})")
    return nothing(op)
