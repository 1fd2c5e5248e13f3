"""Small help with ONNX graphs: constants, copies, running one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..errors import LessenError, extra
from ..memory import rest
from .beside import beside
from .wire import pieces

LARGEST = 2**31 - 2**20  # protobuf can't hold more than 2 GiB in one message
_BESIDE = 2**24  # bytes of weights above which a graph goes to ONNX Runtime by files: in memory it takes four copies
Array = NDArray[Any]


def constant(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """A new initializer; `name` is made unique."""
    name = unique(graph, name)
    value = ir.Value(
        name=name,
        const_value=ir.tensor(array, name=name),
        shape=ir.Shape(array.shape),
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
    )
    graph.register_initializer(value)
    return value


def unique(graph: ir.Graph, name: str) -> str:
    candidate, n = name, 1
    while candidate in graph.initializers:
        candidate, n = f"{name}.{n}", n + 1
    return candidate


def array_of(value: ir.Value | None) -> Array | None:
    """The array of a constant value (an initializer or the output of a Constant node); None if it is computed."""
    if value is None:
        return None
    if value.const_value is None or (value.is_graph_input() and not value.is_initializer()):
        return None
    return value.const_value.numpy()


def is_constant(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None


def copied(model: ir.Model) -> ir.Model:
    """A second model; it shares the arrays of the first, nothing else."""
    return model.clone()


def drop_unused(model: ir.Model) -> ir.Model:
    """Removes nodes and initializers that nobody reads."""
    import onnx_ir.passes.common as passes

    passes.RemoveUnusedNodesPass()(model)
    return model


def serialized(model: ir.Model) -> bytes:
    """The bytes of the ONNX file."""
    return b"".join(in_pieces(model))


def in_pieces(model: ir.Model) -> Iterator[bytes]:
    """The same one after the other, so that a large file need not lie in memory."""
    size = _weights(model)
    if size > LARGEST:
        raise LessenError(f"{size / 2**30:.1f} GiB of weights don't fit one ONNX file (at most 2 GiB)")
    return pieces(model)


def _weights(model: ir.Model) -> int:
    return sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)


def session_on(model: ir.Model, **settings: Any) -> Any:
    """`ort_session` of a graph in memory; a large one's weights are written beside it, where the runtime maps them."""
    if _weights(model) < _BESIDE:
        return ort_session(serialized(model), **settings)
    with beside.saved(model) as path:
        return ort_session(str(path), **settings)


def ort_session(source: bytes | str, **settings: Any) -> Any:
    """An ONNX Runtime session on the CPU that neither logs nor spins between calls."""
    rest()  # what its weights were written from
    ort = extra("onnxruntime", "onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.force_spinning_stop", "1")
    for key, value in settings.items():
        setattr(options, key, value)
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        where = source if isinstance(source, str) else "the exported graph"
        raise LessenError(f"ONNX Runtime refuses it: {str(error).splitlines()[0][:300]}", where=where) from error


def run_onnx(model: ir.Model, inputs: Sequence[Array]) -> list[Array]:
    """The outputs of a graph for one batch of inputs, by ONNX Runtime."""
    return answers(session_on(model), inputs)


def answers(session: Any, inputs: Sequence[Array]) -> list[Array]:
    """All outputs for one batch, in memory of their own: as the runtime gives them they hold all of the session's."""
    names = [i.name for i in session.get_inputs()]
    return [np.array(x) for x in session.run(None, dict(zip(names, inputs, strict=True)))]
