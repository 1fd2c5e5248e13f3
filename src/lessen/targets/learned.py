"""Activation ranges that training learned, in place of calibrated ones."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from ..errors import LessenError
from .coded import Coded
from .locate import INTEGER_OPERATORS, locate_all
from .lowrank import expanded
from .placement import Rules, place
from .ranges import Range

BITS = 8  # of the activations that integer kernels read


def check_bits(bits: Mapping[str, int]) -> None:
    """Refuses activations that no integer kernel reads, by layer name."""
    for name, n in bits.items():
        if n != BITS:
            raise LessenError(
                f"its input was trained at {n} bits: that is simulated, runtimes execute {BITS}", where=name,
                mend=f"train with activations={BITS} to write a file; weights may have fewer bits",
            )  # fmt: skip


def with_learned(
    model: ir.Model, coded: Coded, rules: Rules, calibrated: Mapping[str, Range], learned: Mapping[str, Range]
) -> dict[str, Range]:
    """`calibrated` with the learned range of each layer's input in its place, by tensor name.

    Tensors that share a scale (what only moves values, a concatenation) take the learned range of any of them.

    Args:
        learned: by layer name.
    """
    model, coded = expanded(model, coded)
    sites = locate_all(model, coded.layers)
    placement = place(model, [s for s in sites.values() if coded.how(s) == "int8"], rules)
    groups: dict[str, Range] = {}
    for name, site in sites.items():
        for node, index in site.uses if name in learned and coded.how(site) == "int8" else ():
            x = node.inputs[0]
            if (node.op_type, index) in INTEGER_OPERATORS and x is not None and x.name in placement.readers:
                leader = placement.find(str(x.name))
                groups[leader] = groups[leader].joined(learned[name]) if leader in groups else learned[name]
    found = {name: groups[placement.find(name)] for name in placement.tensors if placement.find(name) in groups}
    return {**calibrated, **found}
