"""What an imported graph needs before it is quantized: constants computed, biases inside their convolutions."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .graph import array_of, constant, drop_unused, is_constant

SMALL = 8192  # elements of what is folded: shapes, scalars, biases; never a weight
CONVOLUTIONS = ("Conv", "ConvTranspose")


def tidied(model: ir.Model) -> ir.Model:
    """Folds small constants, and an addition of one value per channel into the convolution before it."""
    from onnxscript import optimizer

    optimizer.fold_constants(model, input_size_limit=SMALL, output_size_limit=SMALL)
    for node in list(model.graph):
        if node.op_type == "Add":
            _into_convolution(model.graph, node)
    return drop_unused(model)


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
