"""Read an ONNX file that nobody vouches for: everything it claims is checked before memory is taken."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from ...errors import LessenError

MEND = "export the model again; `python -m onnx.checker FILE` tells what is wrong"
_LIMIT = 2**31 - 1  # protobuf's


def read_model(path: str | Path) -> onnx.ModelProto:
    """The parsed and checked file; its external data not read yet.

    Raises:
        LessenError: missing, empty, truncated, not ONNX, or claiming sizes or places that aren't so.
    """
    path = Path(path)
    if not path.is_file():
        raise LessenError("no such file" if not path.exists() else "not a file", where=str(path), mend="check the path")
    size = path.stat().st_size
    if not 0 < size <= _LIMIT:
        why = "empty" if not size else "over 2 GiB: the weights must be external data"
        raise LessenError(f"the file is {why}", where=str(path), mend="export the model again")
    model = _parse(path)
    if not model.HasField("graph") or not (model.graph.node or model.graph.output):
        raise LessenError("not an ONNX model: it has no graph", where=str(path), mend=MEND)
    if not model.opset_import:
        raise LessenError("not an ONNX model: it imports no operator set", where=str(path), mend=MEND)
    for tensor in tensors(model):
        _check(tensor, path)
    return model


def _parse(path: Path) -> onnx.ModelProto:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except (DecodeError, ValueError, RuntimeError) as error:
        raise LessenError(f"not an ONNX file, or a damaged one ({error})", where=str(path), mend=MEND) from error
    except OSError as error:
        raise LessenError(f"can't be read ({error.strerror})", where=str(path), mend="check the file") from error
    return model


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model: initializers and attributes, in subgraphs and functions too."""
    yield from _in_graph(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _in_node(node)


def _in_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _in_node(node)


def _in_node(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for graph in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
            yield from _in_graph(graph)


def _check(tensor: onnx.TensorProto, path: Path) -> None:
    """The data a tensor has is what its shape and type need, and lies where it may."""
    where = f"{path}: tensor {tensor.name!r}"
    try:
        kind = ir.DataType(tensor.data_type)
    except ValueError:
        raise LessenError(f"unknown data type {tensor.data_type}", where=where, mend=MEND) from None
    if any(d < 0 for d in tensor.dims):
        raise LessenError(f"negative size in {list(tensor.dims)}", where=where, mend=MEND)
    count = math.prod(tensor.dims)
    if kind is ir.DataType.STRING:
        have, need = len(tensor.string_data), count
    elif kind is ir.DataType.UNDEFINED:
        raise LessenError("no data type", where=where, mend=MEND)
    elif tensor.data_location == onnx.TensorProto.EXTERNAL:
        return _check_external(tensor, path, math.ceil(count * kind.bitwidth / 8))
    elif tensor.HasField("raw_data"):
        have, need = len(tensor.raw_data), math.ceil(count * kind.bitwidth / 8)
    else:
        have, need = _listed(tensor), _expected(kind, count)
    if have != need:
        raise LessenError(f"shape {list(tensor.dims)} needs {need} values or bytes, the file has {have}",
                          where=where, mend=MEND)  # fmt: skip
    return None


def _listed(tensor: onnx.TensorProto) -> int:
    lists = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
    return max(map(len, lists))


def _expected(kind: ir.DataType, count: int) -> int:
    """How many numbers hold `count` elements in the typed lists of a TensorProto."""
    if kind in (ir.DataType.COMPLEX64, ir.DataType.COMPLEX128):
        return 2 * count
    return math.ceil(count * kind.bitwidth / 8) if kind.bitwidth < 8 else count


def _check_external(tensor: onnx.TensorProto, path: Path, need: int) -> None:
    where = f"{path}: tensor {tensor.name!r}"
    entries = {e.key: e.value for e in tensor.external_data}
    location = entries.get("location", "")
    folder = path.parent.resolve()
    file = folder / location
    if not location or Path(location).is_absolute() or ".." in Path(location).parts or "\0" in location:
        raise LessenError(f"external data at {location!r} is outside the model's folder", where=where,
                          mend="keep the data beside the model and name it by a relative path")  # fmt: skip
    if not file.resolve().is_relative_to(folder) or file.is_symlink():
        raise LessenError(f"external data {location!r} is a link out of the model's folder", where=where,
                          mend="put the data file itself beside the model")  # fmt: skip
    if not file.is_file():
        raise LessenError(f"its external data file {location!r} is missing", where=where,
                          mend="put it beside the model")  # fmt: skip
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", need))
    except ValueError:
        raise LessenError("offset or length of the external data is not a number", where=where, mend=MEND) from None
    if offset < 0 or length != need or offset + length > file.stat().st_size:
        raise LessenError(
            f"external data {location!r} [{offset}, {offset + length}) doesn't fit: the tensor needs {need} bytes, "
            f"the file has {file.stat().st_size}", where=where, mend="copy the data file again",
        )  # fmt: skip
