"""A plan with quantization-aware training as its recovery, carried out twice through the whole job."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

import small
from lessen import LSQ, Compression, LessenError, Plan, Treatment, Uniform, replay

DATA = {"calibration": small.data(200, seed=4), "validation": small.data(100), "test": small.data(100, seed=2)}
TRAIN = small.data(600, seed=5)
LAYERS = {n: Treatment(Uniform(2), 8) for n in ("0.weight", "3.weight", "9.weight", "11.weight")}


def scales(path: Path) -> np.ndarray:
    nodes = [n for n in ir.load(path).graph if n.op_type == "QuantizeLinear"]
    return np.sort([float(n.inputs[1].const_value.numpy()) for n in nodes])


@pytest.mark.slow
def test_a_plan_is_recovered_with_quantized_activations_and_gives_the_same_bytes(tmp_path: Path) -> None:
    net = small.trained()
    plain = Plan("onnxruntime", LAYERS)
    aware = Plan("onnxruntime", LAYERS, recover={"technique": "LSQ", "epochs": 3, "lr": 2e-3})
    (tmp_path / "plan.yaml").write_text(aware.to_yaml())
    runs = [replay(p, net, DATA, tmp_path / n, train=TRAIN)
            for n, p in (("plain", plain), ("a", aware), ("b", tmp_path / "plan.yaml"))]  # fmt: skip
    before, first, second = (r.files["model.onnx"] for r in runs)
    assert first.read_bytes() == second.read_bytes()
    assert not np.allclose(scales(before), scales(first), rtol=1e-3)  # learned ranges, not the calibrated ones
    assert runs[1].report.result.metric.value >= runs[0].report.result.metric.value
    assert (tmp_path / "b" / "plan.yaml").read_text().count("technique: LSQ") == 1


def test_without_data_to_train_on_the_mend_is_named() -> None:
    with pytest.raises(LessenError, match="--train"):
        Compression(small.network().eval(), DATA, "1%", using=[LSQ()]).run()
