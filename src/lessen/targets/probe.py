"""Run as a script: `probe.py TARGET FILE INPUTS.npz` prints peak memory as JSON. Must not import lessen (nor torch)."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any


def high_water() -> int:
    """Peak resident bytes of this process.

    From /proc, because getrusage carries the parent's peak over the fork that made us.
    """
    try:
        with Path("/proc/self/status").open() as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def run_onnxruntime(path: str, arrays: list[Any]) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    session.run(None, {i.name: a for i, a in zip(session.get_inputs(), arrays, strict=True)})


def run_openvino(path: str, arrays: list[Any]) -> None:
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    core.compile_model(core.read_model(path), "CPU", settings)(arrays)


def main(target: str, path: str, inputs: str) -> None:
    import numpy

    with numpy.load(inputs, allow_pickle=False) as file:
        arrays = [file[name] for name in sorted(file.files)]
    module, run = {"onnxruntime": ("onnxruntime", run_onnxruntime), "openvino": ("openvino", run_openvino)}[target]
    __import__(module)
    floor = high_water()
    run(path, arrays)
    print(json.dumps({"floor": floor, "peak": high_water()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
