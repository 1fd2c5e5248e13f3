"""Files timed against each other, in one process, by turns; and their memory, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from ..errors import LessenError
from ..memory import lavish, rest
from .batching import first_samples
from .calibrate import as_array
from .ort import OnnxRuntime
from .packed import Packed
from .target import Session, Target

WARM_UP = 3
LEAST, MOST = 15, 400  # rounds


@dataclass(frozen=True)
class Latency:
    """Time of one call, in milliseconds, over `n` interleaved calls with `batch` samples each.

    Args:
        ratio: first file's time / this file's time, median over the rounds, each round compared with itself.
        ratio_low, ratio_high: 95 % interval of that median (binomial, from the order statistics).
    """

    median: float
    p10: float
    p90: float
    batch: int
    n: int
    ratio: float = 1.0
    ratio_low: float = 1.0
    ratio_high: float = 1.0

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class Memory:
    """Peak resident memory of a fresh process that loads a file and runs it once, in bytes.

    Args:
        peak: the whole process.
        floor: what Python and the runtime's import take before the file is touched.
    """

    peak: int
    floor: int

    @property
    def own(self) -> int:
        """What the file itself costs."""
        return max(self.peak - self.floor, 0)


def compare(
    paths: Sequence[Path], inputs: Sequence[Tensor], target: Target, batch: int = 1, seconds: float = 5.0
) -> list[Latency]:
    """Latency of each file on the same inputs; the first one is what the ratios are taken against.

    All files are loaded, warmed up and then called in turn, so that a disturbed moment hits all of them. Rounds go
    on until `seconds` are over (at least 15, at most 400).

    Args:
        inputs: at least `batch` samples of each input.
    """
    return _timed([target.session(Path(p)) for p in paths], first_samples(inputs, batch), batch, seconds)


def on_one_core(paths: Sequence[Path], inputs: Sequence[Tensor], target: Target, seconds: float = 1.0) -> list[Latency]:
    """The same with one sample and one thread: what else runs on the machine then changes ratios little."""
    return _timed([target.session(Path(p), 1) for p in paths], first_samples(inputs, 1), 1, seconds)


def _timed(sessions: Sequence[Session], few: tuple[Tensor, ...], batch: int, seconds: float) -> list[Latency]:
    rest()  # what the files were written from
    with lavish():
        for session in sessions:
            for _ in range(WARM_UP):
                session(few)
        return _summary(_rounds(sessions, few, seconds), batch)


def _rounds(sessions: Sequence[Session], inputs: Sequence[Tensor], seconds: float) -> np.ndarray:
    """Milliseconds [rounds, sessions]; every other round goes backwards, so that nobody always follows the same."""
    rows: list[list[float]] = []
    end = time.perf_counter() + seconds
    while len(rows) < LEAST or (len(rows) < MOST and time.perf_counter() < end):
        order = range(len(sessions)) if len(rows) % 2 == 0 else range(len(sessions) - 1, -1, -1)
        row = [0.0] * len(sessions)
        for i in order:
            start = time.perf_counter()
            sessions[i](inputs)
            row[i] = (time.perf_counter() - start) * 1e3
        rows.append(row)
    return np.array(rows)


def _summary(times: np.ndarray, batch: int) -> list[Latency]:
    n = len(times)
    half = 0.98 * np.sqrt(n)  # half of the width in ranks: 1.96 * sqrt(n) / 2
    low, high = max(int(n / 2 - half), 0), min(int(np.ceil(n / 2 + half)), n - 1)
    result = []
    for column in times.T:
        ratio = np.sort(times[:, 0] / column)
        p10, median, p90 = (float(q) for q in np.percentile(column, [10, 50, 90]))
        result.append(
            Latency(median, p10, p90, batch, n, float(np.median(ratio)), float(ratio[low]), float(ratio[high]))
        )
    return result


def peak_memory(path: Path, inputs: Sequence[Tensor], target: Target) -> Memory:
    """Loads and runs the file in a fresh process that imports the runtime and nothing of torch.

    A packed file is decoded first; what decoding takes is not counted.

    Raises:
        LessenError: the process failed, or the target has no runtime of its own.
    """
    if isinstance(target, Packed):
        with tempfile.TemporaryDirectory() as folder:
            decoded = Path(folder) / "decoded.onnx"
            decoded.write_bytes(target.onnx(path))
            return peak_memory(decoded, inputs, OnnxRuntime())
    probe = Path(__file__).with_name("probe.py")
    with tempfile.TemporaryDirectory() as folder:
        arrays = Path(folder) / "inputs.npz"
        np.savez(arrays, **{f"{i:03}": as_array(x) for i, x in enumerate(inputs)})  # type: ignore[arg-type]
        command = [sys.executable, str(probe), target.name, str(path), str(arrays)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise LessenError(f"measuring its memory failed: {last[:300]}", where=str(path))
    figures = json.loads(done.stdout)
    return Memory(int(figures["peak"]), int(figures["floor"]))
