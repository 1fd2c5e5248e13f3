"""Nodes that torch doesn't run: carried along, and run by ONNX Runtime in a session of their own."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from ...errors import LessenError, extra
from .values import NotNative, to_host, to_tensor


class OpaqueNode:
    """One node as a model of its own; forward only (no gradient passes it)."""

    def __init__(
        self, node: onnx.NodeProto, opsets: dict[str, int], ir_version: int, captured: tuple[str, ...] = ()
    ) -> None:
        self.node, self.opsets, self.ir_version = node, opsets, ir_version
        self.captured = captured  # outer values that the node's subgraphs use, by their ONNX names
        self.constants: set[str] = set()  # inputs that stay initializers: some kernels insist
        self._sessions: dict[Any, Any] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> OpaqueNode:
        return self

    def __call__(self, inputs: list[Any], device: torch.device | None) -> list[Any]:
        """Run on values in node-input order, then the captured ones; returns one value an output."""
        if any(isinstance(v, Tensor) and torch.compiler.is_compiling() for v in inputs):
            raise LessenError(
                f"the {self.node.op_type} node runs in ONNX Runtime, which torch.export can't trace",
                where=f"node {self.node.name!r}",
                mend="use what needs no tracing, or replace the node",
            )
        names = [*self.node.input, *self.captured]
        feeds: dict[str, Any] = {}
        fixed: dict[str, np.ndarray] = {}
        for name, value in zip(names, inputs):
            if name and value is not None:
                (fixed if name in self.constants else feeds)[name] = _out(value)
        return [_back(v, device) for v in self._run(feeds, fixed)]

    def _run(self, feeds: dict[str, Any], fixed: dict[str, np.ndarray]) -> list[Any]:
        key = (tuple((n, _kind(v)) for n, v in feeds.items()), tuple((n, _digest(v)) for n, v in fixed.items()))
        if key not in self._sessions:
            self._sessions[key] = self._session(feeds, fixed)
        try:
            return self._sessions[key](feeds)
        except Exception as error:  # the runtimes' errors have no common type
            self._sessions[key] = self._reference(self.model(feeds, fixed), error)
        try:
            return self._sessions[key](feeds)
        except Exception as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> LessenError:
        first = str(error).strip().splitlines()[:1]
        return LessenError(
            f"the {self.node.op_type} node can't be run: {first[0] if first else type(error).__name__}",
            where=f"node {self.node.name or self.node.output[0]!r}",
            mend="check the inputs; ONNX Runtime may lack this operator",
        )

    def model(self, feeds: dict[str, Any], fixed: dict[str, np.ndarray]) -> onnx.ModelProto:
        """The node alone; `feeds` are its inputs, `fixed` its initializers."""
        helper = onnx.helper
        graph = helper.make_graph(
            [self.node],
            "opaque",
            [onnx.ValueInfoProto(name=n, type=_type(v)) for n, v in feeds.items()],
            [helper.make_empty_tensor_value_info(n) for n in self.node.output if n],
            [onnx.numpy_helper.from_array(v, n) for n, v in fixed.items()],
        )
        opsets = [helper.make_opsetid(domain, version) for domain, version in self.opsets.items()]
        return helper.make_model(graph, opset_imports=opsets, ir_version=self.ir_version)

    def _session(self, feeds: dict[str, Any], fixed: dict[str, np.ndarray]) -> Any:
        """A function from feeds to outputs: ONNX Runtime's, or where it lacks the operator, ONNX's reference."""
        runtime = extra("onnxruntime", "onnxruntime")
        model = self.model(feeds, fixed)
        options = runtime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            session = runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
            if any("float8" in output.type for output in session.get_outputs()):  # it hands those out untyped
                return self._reference(model, ValueError("float8"))
            return lambda values: self._aligned(session.run(None, values))
        except Exception as error:  # not implemented there
            return self._reference(model, error)

    def _aligned(self, outputs: list[Any]) -> list[Any]:
        rest = iter(outputs)
        return [next(rest) if name else None for name in self.node.output]

    def _reference(self, model: onnx.ModelProto, error: Exception) -> Any:
        from onnx.reference import ReferenceEvaluator

        try:
            evaluator = ReferenceEvaluator(model)
        except Exception:
            raise self._failure(error) from error
        return lambda values: self._aligned(list(evaluator.run(None, values)))


def _out(value: Any) -> Any:
    if isinstance(value, list):
        return [_out(v) for v in value]
    return np.ascontiguousarray(to_host(value)) if value.ndim else to_host(value)


def _back(value: Any, device: torch.device | None) -> Any:
    """A runtime's output as our value: arrays of numbers become tensors, others stay."""
    if isinstance(value, list):
        return [_back(v, device) for v in value]
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        try:
            return to_tensor(array, device)
        except NotNative:
            return array
    return value


def _kind(value: Any) -> Any:
    return ("sequence", *map(_kind, value[:1])) if isinstance(value, list) else (value.dtype.str, value.ndim)


def _digest(value: np.ndarray) -> Any:
    data = repr(value.tolist()).encode() if value.dtype.kind in "OSU" else value.tobytes()
    return (value.dtype.str, value.shape, hashlib.sha256(data).hexdigest())


def _type(value: Any) -> onnx.TypeProto:
    if isinstance(value, list):
        inner = _type(value[0]) if value else onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None)
        if value and any(v.ndim != value[0].ndim for v in value):
            inner.tensor_type.ClearField("shape")
        return onnx.helper.make_sequence_type_proto(inner)
    kind = onnx.TensorProto.STRING if value.dtype.kind in "OSU" else onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
    return onnx.helper.make_tensor_type_proto(kind, [None] * value.ndim)
