"""The bytes of an ONNX file piece by piece: whole, they would be in memory twice before they are written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx_ir as ir

GRAPH, INITIALIZER, RAW = 7, 5, 9  # numbers of the fields of ModelProto, GraphProto and TensorProto
_LEAST = 2**16  # bytes of a weight that is worth its own piece


def pieces(model: ir.Model) -> Iterator[bytes]:
    """The parts of what `ir.to_proto(model).SerializeToString(deterministic=True)` gives, without `value_info`.

    Protocol buffers are written in the order of the fields' numbers, each field with its length before it: all but
    the weights is written as usual, and they are put where they belong, one at a time.
    """
    weights = {
        n: v.const_value for n, v in model.graph.initializers.items()
        if type(v.const_value) is ir.Tensor and v.const_value.nbytes >= _LEAST and not _told(v.const_value)
    }  # fmt: skip
    proto = _without(model, weights)
    graph = proto.graph
    tensors = [_tensor(t, weights.get(t.name)) for t in graph.initializer]
    before, after = _fields(graph, lambda n: n < INITIALIZER), _fields(graph, lambda n: n > INITIALIZER)
    heads = [_head(INITIALIZER, sum(map(len, t)) + size) for t, size in tensors]
    total = len(before) + sum(len(h) + sum(map(len, t)) + size for h, (t, size) in zip(heads, tensors, strict=True))
    yield _fields(proto, lambda n: n < GRAPH) + _head(GRAPH, total + len(after)) + before
    for head, (tensor, size), held in zip(heads, tensors, graph.initializer, strict=True):
        yield head + tensor[0]
        if size:
            raw = weights[held.name].tobytes()
            assert len(raw) == size
            yield raw
            del raw  # before the next one is made
        yield tensor[1]
    yield after + _fields(proto, lambda n: n > GRAPH)


def _without(model: ir.Model, weights: dict[str, Any]) -> Any:
    """The message of the model with nothing in these weights."""
    values = model.graph.initializers
    try:
        for name in weights:
            values[name].const_value = ir.tensor(np.zeros(0, np.uint8), name=name)
        proto = ir.to_proto(model)
    finally:
        for name, held in weights.items():
            values[name].const_value = held
    del proto.graph.value_info[:]  # shapes in between: every runtime works them out, and they can be a tenth of a file
    for tensor in proto.graph.initializer:
        if (held := weights.get(tensor.name)) is not None:
            tensor.data_type, tensor.dims[:] = held.dtype.value, held.shape.numpy()
            tensor.ClearField("raw_data")
    return proto


def _told(tensor: Any) -> bool:
    """Whether it carries more than its name and numbers, or numbers of less than a byte."""
    return bool(tensor.doc_string or tensor.metadata_props) or tensor.dtype.bitwidth < 8


def _tensor(proto: Any, held: Any) -> tuple[tuple[bytes, bytes], int]:
    """What lies before and behind the numbers of a tensor, and how many bytes those are."""
    if held is None:
        return (proto.SerializeToString(deterministic=True), b""), 0
    before = _fields(proto, lambda n: n < RAW) + _head(RAW, held.nbytes)
    return (before, _fields(proto, lambda n: n > RAW)), held.nbytes


def _fields(message: Any, wanted: Callable[[int], bool]) -> bytes:
    """These fields of a message as they are written."""
    part = type(message)()
    part.CopyFrom(message)
    for field in message.DESCRIPTOR.fields:
        if not wanted(field.number):
            part.ClearField(field.name)
    return bytes(part.SerializeToString(deterministic=True))


def _head(number: int, size: int) -> bytes:
    """Number and length of a field of bytes."""
    out = bytearray([number << 3 | 2])
    while size > 127:
        out.append(size & 127 | 128)
        size >>= 7
    return bytes([*out, size])
