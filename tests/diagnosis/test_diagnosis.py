"""Each known break is named, its layer found, and the file mended."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnxruntime.quantization import QuantFormat, QuantType

import small
from diagnosis import broken
from lessen import LessenError, OnnxRuntime, diagnose
from lessen.diagnosis.mends import Equalize, InFloat, MeanCorrection, NewRange, PerChannel, Smooth
from lessen.diagnosis.normal import normal
from lessen.diagnosis.reasons import OneStep, OutlierChannel, SaturatedRange, ShiftedBias, ShiftedMean
from lessen.diagnosis.repair import fix
from lessen.targets.graph import run_onnx, serialized


class Case:
    """A network, its float file, its data."""

    def __init__(self, net: torch.nn.Module, folder: Path) -> None:
        self.net, self.folder, self.parts = net, folder, broken.samples(net)
        self.x = self.parts["calibration"][0]
        self.float = broken.saved(net, self.x, folder / "float.onnx")

    def static(self, name: str, x: torch.Tensor | None = None, **settings) -> Path:
        return broken.quantized(self.float, self.folder / f"{name}.onnx", self.x if x is None else x, **settings)

    def diagnose(self, path: Path):
        return diagnose(str(self.float), path, self.parts)


@pytest.fixture(scope="module")
def clipped(tmp_path_factory) -> Case:
    return Case(broken.clipped(), tmp_path_factory.mktemp("clipped"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Case:
    return Case(broken.trained(), tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def outlying(tmp_path_factory) -> Case:
    return Case(broken.outlying(), tmp_path_factory.mktemp("outlying"))


@pytest.mark.parametrize("how", ["qdq", "operators", "dynamic", "per_channel", "unsigned"])
def test_every_layer_back_in_float_is_the_original(clipped, how) -> None:
    settings = {
        "qdq": {}, "operators": {"quant_format": QuantFormat.QOperator}, "per_channel": {"per_channel": True},
        "unsigned": {"activation_type": QuantType.QUInt8},
    }  # fmt: skip
    dynamic = clipped.folder / "dynamic.onnx"
    path = broken.dynamic(clipped.float, dynamic) if how == "dynamic" else clipped.static(how, **settings[how])
    found = clipped.diagnose(path)
    assert found.exact_db > 100  # the swallowed ReLU6 too
    assert found.whole_db < 60
    assert found.runs_db > 30
    assert not found.pair.unmatched
    assert all(x.by == "name" for x in found.layers if x.kind in ("Conv", "Gemm"))


def test_one_step_for_all_channels_is_named_and_mended(clipped, tmp_path) -> None:
    found = clipped.diagnose(clipped.static("tensor"))
    worst = found.worst(1)[0]
    assert worst.name == "middle.weight"
    reason = worst.findings[0].reason
    assert isinstance(reason, OneStep)
    assert reason.channels == 16
    assert reason.dead > 0
    assert isinstance(worst.mend, PerChannel)
    assert worst.mended_db > worst.alone_db + 10
    assert found.first_broken.name == "middle.weight"
    mended = fix(found, tmp_path / "mended.onnx", found.drop.value / 2)
    assert mended.held
    assert mended.drop.value < mended.before.value
    assert not any(isinstance(s.mend, InFloat) and s.kept for s in mended.steps)
    assert OnnxRuntime().verify(tmp_path / "mended.onnx").share > 0.7  # still integers


def test_an_unseen_range_is_named_and_mended(plain, tmp_path) -> None:
    path = plain.static("dark", plain.x * 0.2, per_channel=True)
    found = plain.diagnose(path)
    assert found.drop.value > 1
    worst = found.worst(1)[0]
    assert isinstance(worst.findings[0].reason, SaturatedRange)
    assert worst.findings[0].reason.share > 0.01
    assert isinstance(worst.mend, NewRange)
    mended = fix(found, tmp_path / "mended.onnx", 1)
    assert mended.held
    assert {type(s.mend) for s in mended.steps if s.kept} == {NewRange}


def test_an_outlier_channel_is_named_equalized_or_smoothed(outlying, tmp_path) -> None:
    path = outlying.static("outlier", per_channel=True)
    found = outlying.diagnose(path)
    layer = next(x for x in found.layers if x.name == "3.weight")
    reason = layer.findings[0].reason
    assert isinstance(reason, OutlierChannel)
    assert reason.channel == 3
    assert reason.peak > 20 * reason.median
    assert isinstance(layer.mend, Equalize)
    peak = tuple(found.noise[layer.unit].reads[0].peak.tolist())
    for mend in (layer.mend, Smooth((layer.unit,), (peak,))):
        assert _db(mend.apply(found.state), layer.unit, found) > layer.alone_db + 10
    assert found.fix(tmp_path / "mended.onnx", 0.5).held


def test_equalizing_keeps_the_function_and_helps_weights_with_one_step(plain, tmp_path) -> None:
    with torch.no_grad():
        net = copy.deepcopy(plain.net)
        scale = torch.logspace(-2, 2, 32)
        net[9].weight.mul_(scale[:, None])
        net[9].bias.mul_(scale)
        net[11].weight.div_(scale)
    case = Case(net, tmp_path)
    found = case.diagnose(case.static("tensor"))
    head = next(x for x in found.layers if x.name == "11.weight")
    state = Equalize((head.unit,)).apply(found.state)
    before, after = (run_onnx(_exact(s), [case.x.numpy()])[0] for s in (found.state, state))
    np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-3)
    assert _db(state, head.unit, found) > head.alone_db + 6


def test_a_moved_bias_is_named(plain) -> None:
    model = ir.load(plain.static("moved"))
    bias = next(v for v in model.graph.initializers.values() if v.name == "11.bias_quantized")
    moved = bias.const_value.numpy().copy()
    moved[0] += np.int32(2**30 / 64)
    bias.const_value = ir.tensor(moved, name=bias.name)
    path = plain.folder / "moved.onnx"
    path.write_bytes(serialized(model))
    found = plain.diagnose(path)
    assert isinstance(found.worst(1)[0].findings[0].reason, ShiftedBias)
    assert found.worst(1)[0].name == "11.weight"


def test_shifted_means_are_corrected_in_the_bias(plain) -> None:
    """Weights cut off at three quarters of their range: every channel's mean moves."""
    model = ir.load(plain.static("cut", per_channel=True))
    codes = next(v for v in model.graph.initializers.values() if v.name == "9.weight_quantized")
    codes.const_value = ir.tensor(np.minimum(codes.const_value.numpy(), 50), name=codes.name)
    path = plain.folder / "cut.onnx"
    path.write_bytes(serialized(model))
    found = plain.diagnose(path)
    layer = next(x for x in found.layers if x.name == "9.weight")
    assert any(isinstance(f.reason, ShiftedMean) for f in layer.findings)
    assert _db(MeanCorrection((layer.unit,)).apply(found.state), layer.unit, found) > layer.alone_db + 2


def test_weights_are_matched_by_order_when_names_are_gone(plain) -> None:
    path = plain.static("renamed")
    model = ir.load(path)
    for number, value in enumerate(list(model.graph.initializers.values())):
        value.name = f"v{number}"
    for number, node in enumerate(model.graph):
        node.name = f"n{number}"
    path.write_bytes(serialized(model))
    found = plain.diagnose(path)
    assert {x.by for x in found.layers if x.kind in ("Conv", "Gemm")} == {"order"}
    assert found.exact_db > 100
    assert any("by their order" in note for note in found.notes)


def test_repairs_are_deterministic_and_leave_the_file_alone(clipped, tmp_path, global_seeds_untouched) -> None:
    path = clipped.static("again")
    before = path.read_bytes()
    found = clipped.diagnose(path)
    again = clipped.diagnose(path)
    assert [x.alone_db for x in found.layers] == [x.alone_db for x in again.layers]
    for name in ("a", "b"):
        fix(found, tmp_path / name, 0.1)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert path.read_bytes() == before


@pytest.mark.slow
def test_what_lessen_wrote_is_read_too(plain, tmp_path) -> None:
    from lessen import Compression, Uniform

    Compression(plain.net, plain.parts, "50%", using=(Uniform(8),)).run(tmp_path / "run")
    found = diagnose(plain.net, tmp_path / "run", plain.parts)
    assert found.exact_db > 60
    assert found.drop.value <= 50


@pytest.mark.parametrize("wrong", ["network", "same", "swapped", "weights"])
def test_what_does_not_belong_together_is_refused(plain, clipped, wrong) -> None:
    original, compressed = {
        "network": (plain.float, clipped.static("other")),
        "same": (plain.float, plain.float),
        "swapped": (plain.static("quantized"), plain.float),
        "weights": (small.network(7), plain.static("quantized")),
    }[wrong]
    with pytest.raises(LessenError, match=r"belong together|nothing in it is quantized") as error:
        diagnose(original if wrong == "weights" else str(original), compressed, plain.parts)
    assert "float model first" in str(error.value)


def test_operators_of_integers_become_pairs_that_compute_the_same(clipped) -> None:
    path = clipped.static("operators", quant_format=QuantFormat.QOperator)
    model = ir.load(path)
    assert any(n.op_type == "QLinearConv" for n in model.graph)
    made = normal(model)
    assert not any(n.op_type.startswith("QLinear") for n in made.graph)
    wanted, got = (run_onnx(m, [clipped.x.numpy()])[0] for m in (model, made))
    assert np.abs(wanted - got).max() <= np.abs(wanted).max() / 50  # a rounding that falls the other way


def _exact(state) -> ir.Model:
    from lessen.diagnosis.restore import restored

    return restored(state.graph, state.units, state.exact)


def _db(state, unit: str, found) -> float:
    from lessen.diagnosis.measure import measured

    units = [u for u in state.units if u.name == unit]
    return measured(state.graph, units, state.exact, [(found.pair.job.data.calibration.head(32).blocks[0].inputs[0],)])[
        unit
    ].alone_db
