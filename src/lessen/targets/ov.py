"""Target `openvino`: the same kind of ONNX file, run by OpenVINO's CPU plugin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from torch import Tensor

from ..codings import Coding
from ..errors import LessenError, extra
from ..models.layer import Layer
from . import onnx_file
from .batching import batched
from .calibrate import as_array
from .coded import Coded
from .placement import Rules
from .ranges import Range, Rule
from .target import Events, Kernels, Session, typical

PRODUCTS = {"Convolution", "GroupConvolution", "Deconvolution", "FullyConnected", "MatMul", "LSTMCell", "LSTMSeq",
            "GRUCell", "GRUSeq", "RNNCell", "RNNSeq",
            "ScaledDotProductAttention", "QKVProjection", "LLMMLP"}  # fmt: skip


@dataclass(frozen=True)
class OpenVINO:
    """OpenVINO on the CPU.

    Float arithmetic is float32, in the baseline as in ours: left alone, OpenVINO computes in bfloat16 where the CPU
    can, and a float32 file would be timed and scored as something else.
    """

    rule: Rule | None = None
    precision: str = "f32"
    name: str = field(default="openvino", init=False)
    suffix: str = field(default=".onnx", init=False)

    @property
    def likes(self) -> Mapping[str, int]:
        return {"float": 8, "int8": 8}

    @property
    def executes(self) -> Mapping[str, tuple[int, ...]]:
        return {"linear": (8,), "conv": (8,), "conv_transpose": (8,)}

    @property
    def rules(self) -> Rules:
        return Rules(
            behind_convolutions=False, elementwise=("Add",),
            pools=("GlobalAveragePool", "AveragePool", "ReduceMean"), signed=True,
        )  # fmt: skip

    def nbytes(self, layer: Layer, coding: Coding) -> int:
        return onnx_file.nbytes(layer, coding)

    def ranges(self, model: ir.Model, coded: Coded, batches: Iterable[Sequence[Any]]) -> dict[str, Range]:
        return onnx_file.ranges(model, coded, batches, self.rules, self.rule)

    def export(self, model: ir.Model, path: Path, coded: Coded | None, ranges: Mapping[str, Range]) -> Path:
        return onnx_file.export(model, path, coded, ranges, self.rules)

    def session(self, path: Path, threads: int = 0) -> Session:
        compiled = self.compiled(path, threads)
        fixed = None
        shape = compiled.inputs[0].partial_shape if compiled.inputs else None
        if shape is not None and shape.rank.is_static and len(shape) and shape[0].is_static:
            fixed = shape[0].get_length()
        dtypes = [np.dtype(i.element_type.to_dtype()) for i in compiled.inputs]

        def run(arrays: list[np.ndarray]) -> list[np.ndarray]:
            results = compiled(arrays, share_inputs=True)
            return [results[i] for i in range(len(compiled.outputs))]

        return batched(run, dtypes, fixed, str(path))

    def compiled(self, path: Path, threads: int = 0, shapes: Sequence[Sequence[int]] | None = None, **more: Any) -> Any:
        """The model as OpenVINO compiled it, for these input shapes if they are given."""
        if not Path(path).is_file():
            raise LessenError("no such file", where=str(path))
        core = extra("openvino", "openvino").Core()
        try:
            model = core.read_model(str(path))
            if shapes is not None:
                model.reshape({i: list(s) for i, s in zip(model.inputs, shapes, strict=True)})
            return core.compile_model(model, "CPU", self.settings(threads) | more)
        except Exception as error:
            why = str(error).strip().splitlines()[-1][:300]
            raise LessenError(f"OpenVINO refuses it: {why}", where=str(path)) from error

    def settings(self, threads: int = 0) -> dict[str, Any]:
        """Properties of the CPU plugin that every session is made with."""
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": self.precision, "PERFORMANCE_HINT": "LATENCY"}
        return settings | ({"INFERENCE_NUM_THREADS": threads} if threads else {})

    def profile(self, path: Path, inputs: Sequence[Tensor], runs: int) -> Events:
        arrays = [as_array(x) for x in inputs]
        try:
            compiled = self.compiled(path, 1, [a.shape for a in arrays], PERF_COUNT="YES")
        except LessenError:  # where it knows the shapes it folds more: coded weights by a constant state, and fails
            compiled = self.compiled(path, 1, PERF_COUNT="YES")
        request = compiled.create_infer_request()
        rows = []
        for _ in range(runs):
            request.infer(arrays)
            done = [p for p in request.profiling_info if str(p.status).endswith("EXECUTED")]
            rows.append([(p.node_type in PRODUCTS, p.real_time.total_seconds(), str(p.node_name)) for p in done])
        return typical(rows)

    def verify(self, path: Path) -> Kernels:
        nodes = [_kernel(n.get_rt_info(), n) for n in self.compiled(path).get_runtime_model().get_ordered_ops()]
        products = [(name, kernel) for kind, name, kernel in nodes if kind in PRODUCTS]
        return Kernels(
            tuple(f"{kernel} {name}" for name, kernel in products if _in_integers(kernel)),
            tuple(f"{kernel} {name}" for name, kernel in products if not _in_integers(kernel)),
        )


def _kernel(info: Any, node: Any) -> tuple[str, str, str]:
    def read(key: str) -> str:
        value = info[key] if key in info else ""  # noqa: SIM401 (it is no dict)
        return str(getattr(value, "value", value))

    return read("layerType"), str(node.get_friendly_name()), read("primitiveType")


def _in_integers(kernel: str) -> bool:
    return kernel.lower().endswith(("_i8", "_u8"))
