"""How much of ONNX the importer runs: the ONNX project's own backend node tests, each through `OnnxModule`.

    python benchmarks/onnx_coverage.py [--quick] [--failures]

A test passes *natively* when torch ran every node, *opaquely* when ONNX Runtime (or ONNX's reference evaluator) ran
at least one; outputs are held to the test's own tolerances, shapes and types to equality.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import time
import warnings
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import torch
from onnx.backend.test.loader import load_model_tests

from lessen.models.onnx_import.module import OnnxModule
from lessen.models.onnx_import.values import NotNative, to_host, to_tensor

RESULTS = Path(__file__).parent / "results" / "onnx_coverage.json"


def given(value: Any) -> Any:
    """A test's input as the module takes it."""
    if isinstance(value, list):
        return [given(v) for v in value]
    if isinstance(value, onnx.TensorProto):
        value = onnx.numpy_helper.to_array(value)
    try:
        return None if value is None else to_tensor(np.asarray(value))
    except NotNative:
        return np.asarray(value)


def same(got: Any, want: Any, rtol: float, atol: float) -> bool:
    """Whether an output is the one the test asks for."""
    if isinstance(want, list):
        pairs = zip(got, want) if isinstance(got, list) and len(got) == len(want) else [(None, 0)]
        return all(same(g, w, rtol, atol) for g, w in pairs)
    if want is None or got is None:
        return got is want
    if isinstance(want, onnx.TensorProto):
        want = onnx.numpy_helper.to_array(want)
    found, want = to_host(got), np.asarray(want)
    if found.shape != want.shape:
        return False
    if want.dtype.kind in "OSU":
        return found.astype(str).tolist() == want.astype(str).tolist()
    if found.dtype != want.dtype:
        return False
    if want.dtype.kind in "biu":
        return bool(np.array_equal(found, want))
    kind = np.complex128 if want.dtype.kind == "c" else np.float64
    return bool(np.allclose(found.astype(kind), want.astype(kind), rtol, atol, equal_nan=True))


def outcome(case: Any) -> tuple[str, str]:
    """("native" | "opaque" | "fail", why) for one test."""
    try:
        module = OnnxModule(ir.serde.deserialize_model(case.model))
        for inputs, outputs in case.data_sets:
            with torch.no_grad():
                got = module(*map(given, inputs))
            got = got if isinstance(got, tuple) else (got,)
            bad = [i for i, (g, w) in enumerate(zip(got, outputs)) if not same(g, w, case.rtol, case.atol)]
            if bad or len(got) != len(outputs):
                return "fail", f"outputs {bad} differ" + (f" ({module.opaque[0][2]})" if module.opaque else "")
    except Exception as error:  # a benchmark counts failures, whatever they are
        return "fail", f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
    return ("opaque", module.opaque[0][2]) if module.opaque else ("native", "")


def peer(case: Any) -> bool:
    """Whether ONNX Runtime alone passes a test."""
    try:
        quiet = onnxruntime.SessionOptions()
        quiet.log_severity_level = 4
        session = onnxruntime.InferenceSession(case.model.SerializeToString(), quiet)
        for inputs, outputs in case.data_sets:
            arrays = [onnx.numpy_helper.to_array(v) if isinstance(v, onnx.TensorProto) else v for v in inputs]
            got = session.run(None, {i.name: v for i, v in zip(session.get_inputs(), arrays) if v is not None})
            if not all(same(given(g), w, case.rtol, case.atol) for g, w in zip(got, outputs)):
                return False
    except Exception:  # a benchmark counts failures, whatever they are
        return False
    return True


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="every tenth test; nothing is written")
    parser.add_argument("--failures", action="store_true", help="list what fails and what is opaque, with the reason")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    started = time.time()
    cases = load_model_tests(kind="node")[:: 10 if options.quick else 1]
    results = {case.name: (outcome(case), [n.op_type for n in case.model.graph.node]) for case in cases}
    counts = Counter(o for (o, _), _ in results.values())
    if options.failures:
        for name, ((kind, why), _) in results.items():
            if kind != "native":
                print(f"{kind:8s}{name}: {why}")
    rows = [row("all", f"{kind}_passing" if kind != "fail" else "failing", counts[kind], len(cases))
            for kind in ("native", "opaque", "fail")]  # fmt: skip
    rows.append(row("all", "share_passing", (counts["native"] + counts["opaque"]) / len(cases), len(cases), "share"))
    rows.append(row("all", "share_native", counts["native"] / len(cases), len(cases), "share"))
    alone = sum(peer(case) for case in cases)
    runtime = f"onnxruntime {version('onnxruntime')}"
    rows.append({**row("all", "share_passing", alone / len(cases), len(cases), "share"), "who": runtime})
    for r in rows:
        print(f"{r['who']:20s}{r['figure']:16s}{r['value']:8.4g} {r['unit']} (n={r['n']})")
    print(f"{time.time() - started:.1f} s")
    if not options.quick:
        write(rows, time.time() - started)


def row(what: str, figure: str, value: float, n: int, unit: str = "tests") -> dict[str, Any]:
    return {"who": "lessen", "what": what, "figure": figure, "value": value, "unit": unit, "n": n}


def write(rows: list[dict[str, Any]], seconds: float) -> None:
    asked = ["git", "rev-parse", "-q", "--verify", "HEAD"]
    commit = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "command": "python benchmarks/onnx_coverage.py",
        "commit": commit,
        "machine": {"cpu": platform.processor() or platform.machine(), "python": platform.python_version()},
        "versions": {p: version(p) for p in ("onnx", "onnx-ir", "onnxruntime", "torch")},
        "seconds": round(seconds, 1),
        "rows": rows,
    }
    RESULTS.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
