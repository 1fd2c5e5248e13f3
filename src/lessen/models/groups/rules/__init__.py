"""What every ATen operation does to labels; unknown ones hold what they touch."""

from __future__ import annotations

import torch

from lessen.models.groups.flow import Flow, Labels
from lessen.models.groups.rules import contract, index, norm, pointwise, shape
from lessen.models.groups.rules.registry import RULES, block_all, couple, nothing
from lessen.models.groups.trace import Op, Ref

__all__ = ["apply", "contract", "couple", "index", "norm", "shape"]


def apply(flow: Flow, op: Op) -> None:
    """Compute the labels of the operation's outputs."""
    refs = op.refs
    static = bool(refs) and all(flow.is_static(r) for r in refs)
    found = _labels(flow, op)
    for ref, dims in zip(op.outs, found):
        if isinstance(ref, Ref):
            for size, labels in zip(ref.shape, dims):
                if size == 1:  # one index among others: it has its place
                    flow.block(labels, f"the code picks single indices of it ({op})")
            kept = [None if size == 1 else d for size, d in zip(ref.shape, dims)]
            flow.values[ref.id] = kept + [None] * (ref.ndim - len(kept))
            if static:
                flow.static.add(ref.id)


def _labels(flow: Flow, op: Op) -> list[list[Labels]]:
    rule = RULES.get(op.func.overloadpacket)
    if rule is not None:
        return rule(flow, op)
    if torch.Tag.pointwise in op.func.tags:
        return pointwise.pointwise(flow, op)
    if any(x is not None for r in op.refs for x in flow.dims(r)):
        block_all(flow, op, f"no rule for {op}; declare one with couple()")
    return nothing(op)
