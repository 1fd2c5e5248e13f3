"""Which weight of the original a unit of the compressed file holds, and what it would be without rounding."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..targets.graph import Array, array_of
from .units import BIAS, WEIGHTS, Unit, Weight

ALIKE = 0.3  # least correlation of two forms of one weight; that of strangers is near 0
SAME = 0.02  # relative difference below which no rescaling is looked for
GAINED = 0.3  # what is left of the difference after rescaling channels, below which the rescaling is believed


@dataclass(frozen=True, eq=False)
class Original:
    """A weight of the float graph."""

    name: str
    node: ir.Node
    index: int
    array: Array
    bias: Array | None


@dataclass(frozen=True, eq=False)
class Match:
    """What belongs together.

    Args:
        unit: name of the compressed node.
        weight: of it.
        original: the float weight.
        by: "name", or "order" of the network's operators.
        alike: correlation of the two, channels rescaled.
        exact: the float weight in the unit's layout and scaling.
        axis: of it, that counts outputs.
        bias: the float bias, or None where it is not known or is scaled differently.
    """

    unit: str
    weight: Weight
    original: Original
    by: str
    alike: float
    exact: Array
    axis: int
    bias: Array | None


def originals_of(model: ir.Model) -> tuple[Original, ...]:
    """The constant matrices of a float graph, in order of execution."""
    found = []
    for node in model.graph:
        for i in WEIGHTS.get(node.op_type, ()):
            value = node.inputs[i] if i < len(node.inputs) else None
            array = array_of(value)
            if value is not None and array is not None and array.ndim > 1 and array.dtype.kind == "f":
                at = BIAS.get(node.op_type, 99)
                bias = array_of(node.inputs[at]) if at < len(node.inputs) else None
                found.append(Original(str(value.name), node, i, array, bias))
    return tuple(found)


def matched(units: Sequence[Unit], originals: Sequence[Original], nodes: dict[str, ir.Node]) -> tuple[Match, ...]:
    """Pairs of weights: by the names of initializers and nodes first, the rest by their order and shape.

    Args:
        nodes: of the compressed graph, by name (their attributes say how a weight lies).
    """
    mine = [(u, w) for u in units for w in u.weights]
    pairs: dict[int, tuple[int, str]] = {}
    taken: set[int] = set()
    for place, (unit, weight) in enumerate(mine):
        for other, original in enumerate(originals):
            if other not in taken and _same_name(unit, weight, original) and _fits(nodes, unit, weight, original):
                pairs[place] = (other, "name")
                taken.add(other)
                break
    for place, other in _in_order(mine, originals, nodes, pairs, taken):
        pairs[place] = (other, "order")
    made = (_match(nodes, *mine[p], originals[o], by) for p, (o, by) in sorted(pairs.items()))
    return tuple(m for m in made if m.alike >= ALIKE)


def _same_name(unit: Unit, weight: Weight, original: Original) -> bool:
    stem = weight.source
    return stem == original.name or stem.startswith((f"{original.name}_", f"{original.name}.")) or (
        unit.name == original.node.name and weight.index == original.index
    )  # fmt: skip


def _fits(nodes: dict[str, ir.Node], unit: Unit, weight: Weight, original: Original) -> bool:
    a, b = standing(nodes[unit.name], weight.index, weight.array), standing(original.node, original.index,
                                                                             original.array)  # fmt: skip
    return a.shape == b.shape and _gains(a, b)[0] >= ALIKE


def _in_order(
    mine: Sequence[tuple[Unit, Weight]], originals: Sequence[Original], nodes: dict[str, ir.Node],
    pairs: dict[int, tuple[int, str]], taken: set[int],
) -> list[tuple[int, int]]:  # fmt: skip
    left = [p for p in range(len(mine)) if p not in pairs]
    free = [o for o in range(len(originals)) if o not in taken]
    a = [str(standing(nodes[mine[p][0].name], mine[p][1].index, mine[p][1].array).shape) for p in left]
    b = [str(standing(originals[o].node, originals[o].index, originals[o].array).shape) for o in free]
    blocks = difflib.SequenceMatcher(a=a, b=b, autojunk=False).get_matching_blocks()
    found = [(left[m.a + i], free[m.b + i]) for m in blocks for i in range(m.size)]
    sure = [(p, o) for p, o in found if _fits(nodes, *mine[p], originals[o])]
    rest = [o for o in free if o not in {o for _, o in sure}]
    for p in left:  # what the order alone got wrong: any weight that is surely the same
        if p not in {q for q, _ in sure}:
            hit = next((o for o in rest if _fits(nodes, *mine[p], originals[o])), None)
            if hit is not None:
                sure.append((p, hit))
                rest.remove(hit)
    return sure


def standing(node: ir.Node, index: int, array: Array) -> Array:
    """A weight with its outputs first, [outputs, ...]."""
    return np.moveaxis(array, output_axis(node, index, array.ndim), 0)


def output_axis(node: ir.Node, index: int, rank: int) -> int:
    """The axis of a node's constant input that counts output channels."""
    if node.op_type == "Gemm":
        return 0 if node.attributes.get_int("transB", 0) else 1
    if node.op_type == "MatMul":
        return rank - 1 if index == 1 else 0
    return 1 if node.op_type in ("LSTM", "GRU", "RNN", "ConvTranspose") else 0


def _gains(held: Array, wanted: Array) -> tuple[float, Array, Array]:
    """(correlation, row gains, column gains) with held ~ row * wanted * column, by alternating least squares."""
    shape = (held.shape[0], -1) if held.ndim < 3 or held.shape[0] > 1 else (-1, held.shape[-1])
    if held.shape == wanted.shape and _left(held, wanted) < SAME:
        return 1.0, np.ones((held.reshape(shape).shape[0], 1)), np.ones((1, 1))
    a, b = held.reshape(shape).astype(np.float64), wanted.reshape(shape).astype(np.float64)
    rows, columns = np.ones((len(a), 1)), np.ones((1, a.shape[1]))
    plain = _left(a, b)
    for _ in range(3):
        rows = _ratio(a, b * columns, 1)
        if _left(a, rows * b * columns) < 0.05 or held.ndim != 2:
            break
        columns = _ratio(a, rows * b, 0)
    gained = _left(a, rows * b * columns)
    if plain <= max(3 * gained, 0.03) or gained > GAINED:
        rows, columns, gained = np.ones_like(rows), np.ones_like(columns), plain
    alike = float((a * b).sum() / max(np.sqrt((a * a).sum() * (b * b).sum()), 1e-30))
    return max(alike, 1 - gained**2), rows, columns


def _ratio(a: Array, b: Array, axis: int) -> Array:
    below = (b * b).sum(axis, keepdims=True)
    return np.where(below > 0, (a * b).sum(axis, keepdims=True) / np.maximum(below, 1e-30), 1.0)


def _left(a: Array, b: Array) -> float:
    return float(np.linalg.norm(a - b)) / max(float(np.linalg.norm(a)), 1e-30)


def _match(nodes: dict[str, ir.Node], unit: Unit, weight: Weight, original: Original, by: str) -> Match:
    node = nodes[unit.name]
    held = standing(node, weight.index, weight.array)
    wanted = standing(original.node, original.index, original.array)
    alike, rows, columns = _gains(held, wanted)
    plain = bool((rows == 1).all() and (columns == 1).all())
    exact = (rows * wanted.reshape(len(rows), -1) * columns).reshape(held.shape)
    known = plain and unit.bias is not None and original.bias is not None and unit.bias.shape == original.bias.shape
    bias = original.bias if known else None
    axis = output_axis(node, weight.index, weight.array.ndim)
    return Match(unit.name, weight, original, by, alike, np.moveaxis(exact, 0, axis).astype(np.float32), axis, bias)
