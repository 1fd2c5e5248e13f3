"""The peers of int8_peers, each as its own documentation says to use it on a float ONNX file."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import numpy as np

Feed = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Made:
    """A file and what it took to make it, from the float ONNX file to this one, imports not counted.

    Args:
        seconds: by the clock.
        cpu: processor seconds of all threads: what a busy machine does not change.
    """

    path: Path
    seconds: float
    cpu: float


Tool = Callable[[Path, Sequence[Feed], Path, bool], Made]


class Clock:
    """Started when it is made."""

    def __init__(self) -> None:
        self.started = time.perf_counter(), time.process_time()

    def made(self, path: Path) -> Made:
        """The file, and the time until now."""
        return Made(path, time.perf_counter() - self.started[0], time.process_time() - self.started[1])


def nncf_openvino(source: Path, samples: Sequence[Feed], out: Path, transformer: bool) -> Made:
    """`nncf.quantize` of the OpenVINO model; saved as OpenVINO saves by default."""
    import openvino

    nncf = nncf_quiet()
    clock = Clock()
    positional, named = asked(nncf, samples, transformer)
    model = nncf.quantize(openvino.Core().read_model(source), *positional, **named)
    path = out.with_suffix(".xml")
    openvino.save_model(model, path)
    return clock.made(path)


def nncf_onnx(source: Path, samples: Sequence[Feed], out: Path, transformer: bool) -> Made:
    """`nncf.quantize` of the ONNX model: a file that both runtimes read."""
    import onnx

    nncf = nncf_quiet()
    clock = Clock()
    positional, named = asked(nncf, samples, transformer)
    onnx.save(nncf.quantize(onnx.load(source), *positional, **named), out)
    return clock.made(out)


def ort_static(source: Path, samples: Sequence[Feed], out: Path, transformer: bool) -> Made:
    """`quant_pre_process`, then `quantize_static`: QDQ, per channel, unsigned activations, signed weights, min-max."""
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    clock = Clock()
    ready = out.with_suffix(".ready.onnx")
    _prepared(source, ready)
    quantize_static(str(ready), str(out), _reader(samples), quant_format=QuantFormat.QDQ, per_channel=True,
                    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)  # fmt: skip
    ready.unlink()
    return clock.made(out)


def _prepared(source: Path, ready: Path) -> None:
    """ONNX Runtime's pre-processing; without its symbolic shape inference where that fails, as its message advises."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    try:
        quant_pre_process(str(source), str(ready))
    except Exception as error:
        if "symbolic shape" not in str(error):
            raise
        quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)


def ort_dynamic(source: Path, samples: Sequence[Feed], out: Path, transformer: bool) -> Made:
    """`quant_pre_process`, then `quantize_dynamic`, per channel: what its documentation advises for transformers."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    clock = Clock()
    ready = out.with_suffix(".ready.onnx")
    _prepared(source, ready)
    quantize_dynamic(str(ready), str(out), per_channel=True, weight_type=QuantType.QInt8)
    ready.unlink()
    return clock.made(out)


def tools(transformer: bool) -> dict[str, Tool]:
    """Name with version -> tool."""
    nncf, ort = common.peer("nncf"), common.peer("onnxruntime")
    every: dict[str, Tool] = {
        f"{nncf} (OpenVINO)": nncf_openvino,
        f"{nncf} (ONNX)": nncf_onnx,
        f"{ort} static": ort_static,
    }
    return every | ({f"{ort} dynamic": ort_dynamic} if transformer else {})


def file_bytes(path: Path) -> int:
    """Bytes on disk; of OpenVINO's format both files."""
    return path.stat().st_size + (path.with_suffix(".bin").stat().st_size if path.suffix == ".xml" else 0)


def nncf_quiet() -> Any:
    os.environ.setdefault("NNCF_DISABLE_TELEMETRY", "1")
    import nncf

    nncf.set_log_level(logging.ERROR)
    return nncf


def asked(nncf: Any, samples: Sequence[Feed], transformer: bool) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """All defaults, but for the mode that its documentation asks for with transformers."""
    return (nncf.Dataset(list(samples)),), {"model_type": nncf.ModelType.TRANSFORMER} if transformer else {}


def _reader(samples: Sequence[Feed]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(samples)

        def get_next(self) -> Any:
            return next(self.left, None)

    return Reader()
