"""How each ATen operation hands labels on: one function an operation, found by the operation itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lessen.errors import LessenError
from lessen.models.groups.flow import Flow, Labels
from lessen.models.groups.trace import Op, Ref

Rule = Callable[[Flow, Op], list[list[Labels]]]
RULES: dict[Any, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a function for `torch.ops.aten.<name>`; names this PyTorch does not have are passed over."""

    def register(function: Rule) -> Rule:
        for name in names:
            if hasattr(torch.ops.aten, name):
                RULES[getattr(torch.ops.aten, name)] = function
        return function

    return register


def couple(op: Any, dims: Callable[..., list[list[Labels]]]) -> None:
    """Declare how a custom operation hands on its dimensions.

    Args:
        op: `torch.ops.<namespace>.<name>`.
        dims: gets, for each tensor argument, the list of its dimensions' labels, and returns such a list for each
            output. A label that is handed on: this dimension of the output is that of the argument; a tuple of labels:
            dimensions of several arguments, which shrink together; `None`: can't shrink.

    Raises:
        LessenError: not an operation.

    Example: a gate multiplies each channel of x [n, c] by one of its own.
        >>> couple(torch.ops.mine.gate, lambda x, gate: [[x[0], (x[1], gate[1])]])  # doctest: +SKIP
    """
    packet = getattr(op, "overloadpacket", op)
    if not hasattr(packet, "overloads"):
        raise LessenError(f"{op!r} is no operation", mend="give torch.ops.<namespace>.<name>")
    RULES[packet] = lambda flow, node: _declared(flow, node, dims(*(flow.dims(r) for r in node.refs)))


def _declared(flow: Flow, op: Op, outputs: list[list[Labels]]) -> list[list[Labels]]:
    """What a user returned: tuples are dimensions to tie, which must be of one size."""
    for labels in (d for out in outputs for d in out if isinstance(d, tuple)):
        if len({len(x) for x in labels if x is not None}) > 1:
            raise LessenError(
                f"dimensions of different sizes can't shrink together: {[len(x) for x in labels if x is not None]}",
                where=str(op),
                mend="see couple()",
            )
    reason = f"combined with values of fixed width ({op})"
    return [[flow.join(d, reason) if isinstance(d, tuple) else d for d in out] for out in outputs]


def arg(op: Op, place: int, name: str, default: Any = None) -> Any:
    """An argument given by place or by name."""
    return op.args[place] if len(op.args) > place else op.kwargs.get(name, default)


def axis(dim: int, ndim: int) -> int:
    return dim % ndim if ndim else 0


def block_all(flow: Flow, op: Op, reason: str) -> None:
    for ref in op.refs:
        for labels in flow.dims(ref):
            flow.block(labels, reason)


def nothing(op: Op) -> list[list[Labels]]:
    """Outputs none of whose dimensions can shrink."""
    return [[None] * r.ndim if isinstance(r, Ref) else [] for r in op.outs]
