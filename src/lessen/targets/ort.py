"""Target `onnxruntime`: quantize/dequantize ONNX, run by ONNX Runtime's CPU provider."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from torch import Tensor

from ..codings import Coding
from ..errors import LessenError
from ..models.layer import Layer
from . import onnx_file
from .batching import batched
from .calibrate import as_array
from .coded import Coded
from .graph import ort_session
from .placement import Rules
from .ranges import Range, Rule
from .target import Events, Kernels, Session, typical

INTEGER = {"QLinearConv", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat", "MatMulInteger", "ConvInteger",
           "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "MatMulNBits", "QAttention"}  # fmt: skip
FLOAT = {"Conv", "FusedConv", "ConvTranspose", "MatMul", "FusedMatMul", "Gemm", "FusedGemm", "LSTM", "GRU", "RNN",
         "Attention", "MultiHeadAttention", "TransposeMatMul"}  # fmt: skip
DTYPES = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16,
          "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(int8)": np.int8, "tensor(uint8)": np.uint8,
          "tensor(int16)": np.int16, "tensor(uint16)": np.uint16, "tensor(bool)": np.bool_}  # fmt: skip


@dataclass(frozen=True)
class OnnxRuntime:
    """ONNX Runtime on the CPU.

    Unsigned activations and signed per-channel weights, a pair behind every convolution: without it the
    convolution stays in float. Its signed kernels are slower than float32 on x86.
    """

    rule: Rule | None = None
    name: str = field(default="onnxruntime", init=False)
    suffix: str = field(default=".onnx", init=False)

    @property
    def likes(self) -> Mapping[str, int]:
        return {"float": 16, "int8": 4}

    @property
    def executes(self) -> Mapping[str, tuple[int, ...]]:
        return {"linear": (8,), "conv": (8,)}

    @property
    def rules(self) -> Rules:
        return Rules(
            behind_convolutions=True, elementwise=("Add", "Mul"), guards=("Conv", "ConvTranspose", "Gemm"),
            pools=("GlobalAveragePool", "AveragePool"), live=True, codes_pay_from=2**17,
        )  # fmt: skip

    def nbytes(self, layer: Layer, coding: Coding) -> int:
        return onnx_file.nbytes(layer, coding)

    def ranges(self, model: ir.Model, coded: Coded, batches: Iterable[Sequence[Any]]) -> dict[str, Range]:
        return onnx_file.ranges(model, coded, batches, self.rules, self.rule)

    def export(self, model: ir.Model, path: Path, coded: Coded | None, ranges: Mapping[str, Range]) -> Path:
        return onnx_file.export(model, path, coded, ranges, self.rules)

    def session(self, path: Path, threads: int = 0) -> Session:
        return session_of(_existing(path), str(path), threads)

    def scoring(self, path: Path, threads: int = 0) -> Session:
        """The same without its plan of where activations go, which takes memory for all of them at once."""
        return session_of(_existing(path), str(path), threads, enable_mem_pattern=False)

    def profile(self, path: Path, inputs: Sequence[Tensor], runs: int) -> Events:
        with tempfile.TemporaryDirectory() as folder:
            settings = {"enable_profiling": True, "profile_file_prefix": str(Path(folder) / "p")}
            session = ort_session(_existing(path), intra_op_num_threads=1, **settings)
            feed = {i.name: as_array(x) for i, x in zip(session.get_inputs(), inputs, strict=True)}
            for _ in range(runs):
                session.run(None, feed)
            events = json.loads(Path(session.end_profiling()).read_text())
        nodes = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
        each = len(nodes) // runs
        rows = [
            (e["args"]["op_name"] in INTEGER | FLOAT, e["dur"] * 1e-6, e["name"].removesuffix("_kernel_time"))
            for e in nodes
        ]
        return typical(rows[i * each : (i + 1) * each] for i in range(runs))

    def verify(self, path: Path) -> Kernels:
        with tempfile.TemporaryDirectory() as folder:
            optimized = str(Path(folder) / "optimized.onnx")
            ort_session(_existing(path), optimized_model_filepath=optimized)
            nodes = [(n.op_type, n.name) for n in ir.load(optimized).graph]
        return Kernels(
            tuple(f"{kind} {name}" for kind, name in nodes if kind in INTEGER),
            tuple(f"{kind} {name}" for kind, name in nodes if kind in FLOAT),
        )


def session_of(source: str | bytes, where: str, threads: int = 0, **settings: Any) -> Session:
    """An ONNX model, given as a path or as bytes, loaded."""
    session = ort_session(source, intra_op_num_threads=threads, **settings)
    inputs, outputs = session.get_inputs(), [o.name for o in session.get_outputs()]
    names = [i.name for i in inputs]
    first = inputs[0].shape[0] if inputs and inputs[0].shape else None
    return batched(
        lambda arrays: session.run(outputs, dict(zip(names, arrays, strict=True))),
        [np.dtype(DTYPES[i.type]) for i in inputs],
        first if isinstance(first, int) else None,
        where,
    )


def _existing(path: Path) -> str:
    if not Path(path).is_file():
        raise LessenError("no such file", where=str(path))
    return str(path)
