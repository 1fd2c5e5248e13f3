"""What an imported graph needs before it is quantized: constants computed, biases inside their convolutions."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .affine import CONVOLUTIONS, folded
from .graph import array_of, constant, drop_unused, is_constant

SMALL = 8192  # elements of what is folded: shapes, scalars, biases; never a weight


def tidied(model: ir.Model) -> ir.Model:
    """Folds small constants, and into convolutions an addition per channel and what is multiplied with and added to
    all channels alike (`affine.folded`)."""
    from onnxscript import optimizer

    optimizer.fold_constants(model, input_size_limit=SMALL, output_size_limit=SMALL)
    for node in list(model.graph):
        if node.op_type == "Add":
            _into_convolution(model.graph, node)
    folded(model)
    return drop_unused(model)


def pooled(model: ir.Model) -> dict[str, str]:
    """Makes every mean over all positions of a picture a pooling, which has an integer kernel; a mean has none.

    Returns:
        name of a new tensor -> name of the old one that holds the same values in another shape.
    """
    aliases: dict[str, str] = {}
    for node in list(model.graph):
        if node.op_type != "ReduceMean" or not _over_positions(node):
            continue
        x, old = node.inputs[0], node.outputs[0]
        pool = ir.node("GlobalAveragePool", [x], name=node.name)
        new = pool.outputs[0]
        new.type = old.type
        model.graph.insert_before(node, pool)
        if not node.attributes.get_int("keepdims", 1):
            flat = ir.node("Flatten", [new], attributes={"axis": 1}, name=f"{node.name}_flat")
            new.name = f"{old.name}_pooled"
            aliases[new.name] = str(old.name)
            model.graph.insert_before(node, flat)
            new = flat.outputs[0]
        new.type, new.shape = old.type, old.shape
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        new.name, old.name = old.name, f"{old.name}_mean"
        model.graph.remove([node], safe=True)
    return aliases


def _over_positions(node: ir.Node) -> bool:
    """The mean of [n, c, h, w] over h and w."""
    x = node.inputs[0]
    held = node.attributes.get("axes")
    axes = array_of(node.inputs[1]) if len(node.inputs) > 1 else None if held is None else np.array(held.as_ints())
    rank = None if x is None or x.shape is None else len(x.shape)
    if axes is None or rank not in (None, 4):
        return False
    found = sorted(int(a) for a in axes.reshape(-1))
    return (found == [2, 3] and rank == 4) or (found == [-2, -1] and (rank == 4 or _of_a_picture(x)))


def _of_a_picture(x: ir.Value | None) -> bool:
    """Made by a convolution of pictures, perhaps with an activation behind it: of four axes, though nobody wrote it."""
    node = x.producer() if x is not None else None
    while node is not None and node.op_type in ("Clip", "Relu", "Add", "HardSwish", "LeakyRelu"):
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    weight = array_of(node.inputs[1]) if node is not None and node.op_type == "Conv" else None
    return weight is not None and weight.ndim == 4


def _into_convolution(graph: ir.Graph, add: ir.Node) -> None:
    for i in (0, 1):
        data, other = add.inputs[i], add.inputs[1 - i]
        conv = data.producer() if data is not None else None
        if conv is None or conv.op_type not in CONVOLUTIONS or not is_constant(other):
            continue
        if len(conv.inputs) > 2 or len(list(data.uses())) != 1 or data.is_graph_output():  # type: ignore[union-attr]
            continue
        bias = _per_channel(conv, array_of(other))
        if bias is None:
            continue
        inputs = [*conv.inputs, constant(graph, f"{data.name}_bias", bias)]  # type: ignore[union-attr]
        new = ir.node(conv.op_type, inputs, attributes=dict(conv.attributes), name=conv.name)
        out, old = new.outputs[0], add.outputs[0]
        out.type, out.shape = old.type, old.shape
        graph.insert_before(add, new)
        old.replace_all_uses_with(out, replace_graph_outputs=True)
        out.name = old.name
        graph.remove([add, conv], safe=True)
        return


def _per_channel(conv: ir.Node, array: np.ndarray | None) -> np.ndarray | None:
    """The constant as one value per output channel; None if it is something else."""
    weight = array_of(conv.inputs[1])
    if array is None or weight is None or array.ndim not in (weight.ndim, weight.ndim - 1):
        return None
    groups = conv.attributes.get_int("group", 1)
    channels = weight.shape[0] if conv.op_type == "Conv" else weight.shape[1] * groups
    wanted = (1, channels, *[1] * (weight.ndim - 2))[weight.ndim - array.ndim :]
    return np.ascontiguousarray(array.reshape(-1), dtype=np.float32) if array.shape == wanted else None
