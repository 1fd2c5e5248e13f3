"""How much memory the runtime itself takes for the float file and ours together: no job that times both needs less.

python _sessions.py RUNTIME INPUTS.npz FILE...     prints bytes
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import common
import numpy as np
import torch

from lessen.targets import target
from lessen.targets.measure import first_samples


def needed(runtime: str, files: Sequence[Path], inputs: Sequence[torch.Tensor]) -> int:
    """Most bytes of a process of its own above what its imports took, while these files are loaded and run."""
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "inputs.npz"
        np.savez(given, *[x.numpy() for x in inputs])
        asked = [sys.executable, __file__, runtime, str(given), *map(str, files)]
        return int(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> None:
    """Load, run, print."""
    runtime, given, *files = sys.argv[1:]
    import onnxruntime  # noqa: F401
    import openvino  # noqa: F401

    inputs = [torch.from_numpy(x) for x in np.load(given).values()]
    with common.Peak() as peak:
        sessions = [target(runtime).session(Path(f)) for f in files]
        for _ in range(3):
            for session in sessions:
                session(first_samples(inputs, 1))
    print(peak.bytes)


if __name__ == "__main__":
    main()
