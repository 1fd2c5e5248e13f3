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
from ..memory import rest
from ..models.layer import Layer
from . import onnx_file
from .batching import batched
from .calibrate import as_array
from .coded import Coded
from .machine import machine
from .placement import Rules
from .ranges import Range, Rule
from .target import Events, Kernels, Session, typical

PRODUCTS = {"Convolution", "GroupConvolution", "Deconvolution", "FullyConnected", "MatMul", "LSTMCell", "LSTMSeq",
            "GRUCell", "GRUSeq", "RNNCell", "RNNSeq",
            "ScaledDotProductAttention", "QKVProjection", "LLMMLP"}  # fmt: skip


ZEROS = 0.85  # share of zeros from which a sparse kernel is asked for (`benchmarks/sparse_execution.py`)


@dataclass(frozen=True)
class OpenVINO:
    """OpenVINO on the CPU.

    Float arithmetic is float32, in the baseline as in ours: left alone, OpenVINO computes in bfloat16 where the CPU
    can, and a float32 file would be timed and scored as something else.

    Where the CPU has AMX, linear layers in integers of which `ZEROS` are zero run by kernels that keep the weight
    packed without its zeros. OpenVINO has to be asked for them (`settings`); no file can do that.
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
            pools=("GlobalAveragePool", "AveragePool", "ReduceMean"), gates=("Mul",), signed=True, scores=True,
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
        rest()  # what the file was written from
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
        if self.skips_zeros is not None:
            settings["CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE"] = self.skips_zeros
        return settings | ({"INFERENCE_NUM_THREADS": threads} if threads else {})

    @property
    def skips_zeros(self) -> float | None:
        """Share of zeros from which a linear layer in integers gets quicker; None: it never does."""
        return ZEROS if "amx_int8" in machine()["flags"] else None

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
        compiled = self.compiled(path)
        products = _products(compiled)
        return Kernels(
            tuple(p for p in products if _in_integers(p.split(" ")[0])),
            tuple(p for p in products if not _in_integers(p.split(" ")[0])),
            self._sparse(path, compiled, products),
        )

    def _sparse(self, path: Path, compiled: Any, products: Sequence[str]) -> tuple[str, ...]:
        """Which products pass over zeros; kernels are only chosen when the number of samples is known: one."""
        shapes = [i.partial_shape for i in compiled.inputs]
        if self.skips_zeros is not None and any(p.startswith("undef") for p in products):
            try:
                one = [[d.get_length() if i or d.is_static else 1 for i, d in enumerate(s)] for s in shapes]
                products = _products(self.compiled(path, shapes=one))
            except (RuntimeError, LessenError):  # another length is open too, or it can't be made for one sample
                return ()
        return tuple(p for p in products if "_sparse_" in p.lower())


def _products(compiled: Any) -> list[str]:
    """Kernel and name of each product."""
    nodes = [_kernel(n.get_rt_info(), n) for n in compiled.get_runtime_model().get_ordered_ops()]
    return [f"{kernel} {name}" for kind, name, kernel in nodes if kind in PRODUCTS]


def _kernel(info: Any, node: Any) -> tuple[str, str, str]:
    def read(key: str) -> str:
        value = info[key] if key in info else ""  # noqa: SIM401 (it is no dict)
        return str(getattr(value, "value", value))

    return read("layerType"), str(node.get_friendly_name()), read("primitiveType")


def _in_integers(kernel: str) -> bool:
    return kernel.lower().endswith(("_i8", "_u8"))
