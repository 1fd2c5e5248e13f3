"""Where ranges come from: the rules, when enough was seen, which rule is taken, and what calibration can't tell."""

import logging

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from lessen.errors import LessenError
from lessen.models import Layer
from lessen.targets import Coded, OnnxRuntime, OpenVINO
from lessen.targets.calibrate import calibrated, chunks, histograms
from lessen.targets.clipping import live_noise, noise
from lessen.targets.executed import stored_only
from lessen.targets.placement import Rules
from lessen.targets.qdq import quantized
from lessen.targets.ranges import Histogram, Importance, Range
from lessen.targets.trial import disturbance, importances, ranges
from targets.small_nets import exported, grid, sqnr
from targets.small_nets import noise as gaussian


def seen(x: np.ndarray, importance: Importance | None = None) -> Histogram:
    h = Histogram(importance=importance)
    for part in np.array_split(x.astype(np.float32), 10):
        h.add(part)
    return h


def decibels(x: np.ndarray, r: Range) -> float:
    codes = np.clip(np.round(x / r.scale) + r.zero_point, 0, 255)
    return 10 * np.log10((x**2).sum() / (((codes - r.zero_point) * r.scale - x) ** 2).sum())


def heavy_tailed() -> np.ndarray:
    return np.random.default_rng(0).laplace(size=(40, 5000))


@pytest.mark.parametrize("rule", ["mse", "percentile", "entropy"])
def test_rules_that_clip_beat_the_full_range_on_heavy_tails(rule) -> None:
    x = heavy_tailed()
    h = seen(x)
    assert decibels(x, h.range(rule)) > decibels(x, h.range("minmax")) + 0.3


def test_mse_is_the_best_of_all_rules_on_what_it_saw() -> None:
    x = heavy_tailed()
    h = seen(x)
    best = decibels(x, h.range("mse"))
    assert all(decibels(x, h.range(r)) <= best + 0.05 for r in ("minmax", "average", "percentile", "entropy"))


def test_an_unknown_rule_names_the_known_ones() -> None:
    with pytest.raises(LessenError, match=r"(?s)rule='max'.*mse.*entropy, or None"):
        seen(heavy_tailed()).range("max")


def test_noise_is_what_rounding_does() -> None:
    x = heavy_tailed()
    r = Range(-6.0, 6.0)
    codes = np.clip(np.round(x / r.scale) + r.zero_point, 0, 255)
    real = float((((codes - r.zero_point) * r.scale - x) ** 2).mean())
    assert noise(seen(x), r) == pytest.approx(real, rel=0.1)


def test_moving_average_forgets_one_wild_batch() -> None:
    x = np.random.default_rng(0).standard_normal((100, 64))
    x[5] = 50
    h = Histogram()
    for row in x.astype(np.float32):
        h.add(row[None])
    assert h.range("minmax").high == 50 and h.range("average").high < 5


def test_weighted_keeps_the_channel_that_matters_whole() -> None:
    x = np.random.default_rng(0).standard_normal((40, 64, 40))
    x[:, 3] *= 6
    channels = np.full(64, 1e-3)
    channels[3] = 1.0
    whole = seen(x, Importance(1, channels / channels.mean())).range("weighted")
    plain = seen(x).range("weighted")
    assert whole.high > 1.1 * plain.high
    assert decibels(x[:, 3], whole) > decibels(x[:, 3], plain) + 5


def test_weights_of_every_value_follow_its_channel() -> None:
    w = np.array([1.0, 2.0, 3.0])
    assert Importance(1, w).of_every((2, 3, 2), 1).tolist() == [1, 1, 2, 2, 3, 3] * 2
    assert Importance(-1, w).of_every((2, 3), 1).tolist() == [1, 2, 3] * 2
    assert Importance(-1, w).of_every((2, 3), 2).tolist() == [1, 3, 2]


def graph(weight: np.ndarray, gate: float = 1.0, bias: np.ndarray | None = None) -> ir.Model:
    """x [n, c] -> y = (x * gate) @ weight (+ bias)."""
    init = [numpy_helper.from_array(weight.astype("f"), "fc.weight"), numpy_helper.from_array(np.float32(gate), "gate")]
    nodes = [helper.make_node("Mul", ["x", "gate"], ["h"]), helper.make_node("MatMul", ["h", "fc.weight"], ["p"])]
    if bias is None:
        nodes[-1].output[0] = "y"
    else:
        init.append(numpy_helper.from_array(bias.astype("f"), "b"))
        nodes.append(helper.make_node("Add", ["p", "b"], ["y"]))
    value = helper.make_tensor_value_info
    made = helper.make_graph(nodes, "g", [value("x", TensorProto.FLOAT, None)],
                             [value("y", TensorProto.FLOAT, None)], init)  # fmt: skip
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    return ir.from_proto(onnx.shape_inference.infer_shapes(model))


WEIGHT = gaussian(16, 8).numpy()
LAYER = Layer("fc.weight", "linear", torch.from_numpy(WEIGHT.T.copy()))


def coded(codings: bool = True) -> Coded:
    return Coded((LAYER,), {LAYER.name: grid(LAYER)} if codings else {}, {LAYER.name: "int8"})


def test_calibration_stops_when_more_samples_stop_mattering() -> None:
    x = gaussian(500, 16, 100).transpose(1, 2)
    made = calibrated(graph(WEIGHT), ["h"], [(x,)])
    assert made.settled and 32 < made.samples < 500
    assert [look.samples for look in made.looks] == [64 << i for i in range(len(made.looks))]
    few, every = made.found["h"], histograms(graph(WEIGHT), ["h"], [(x,)])["h"]
    assert noise(every, few.range()) < 1.05 * noise(every, every.range())


def test_calibration_goes_on_while_the_data_changes() -> None:
    x = gaussian(512, 16) * torch.logspace(0, 3, 512)[:, None]
    made = calibrated(graph(WEIGHT), ["h"], [(x,)])
    assert made.samples == 512 and not made.settled


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_what_is_not_finite_names_tensor_maker_and_mend(value) -> None:
    x = gaussian(4, 16)
    x[2, 3] = value
    with pytest.raises(LessenError, match=r"(?s)h: .*NaN or infinite.*Mul of gate.*mend: look for"):
        histograms(graph(WEIGHT, 1e3), ["h"], [(x,)])


def test_a_branch_that_is_never_reached_stays_in_float_and_says_so(caplog) -> None:
    model, x = graph(WEIGHT, 0.0), gaussian(40, 16)
    with caplog.at_level(logging.WARNING, "lessen"):
        found = ranges(model, coded(), [(x,)], Rules(), None)
    assert found["h"].empty
    assert "h (made by Mul of gate) was 0 on all calibration samples" in caplog.text and "give samples" in caplog.text
    assert not [n for n in quantized(model, coded(), found, Rules()).graph if n.op_type == "QuantizeLinear"]


def test_a_constant_input_is_held_exactly() -> None:
    h = Histogram()
    h.add(np.full((40, 16), 3.0, np.float32))
    r = h.range()
    code = np.clip(round(3.0 / r.scale) + r.zero_point, 0, 255)
    assert (code - r.zero_point) * r.scale == pytest.approx(3.0, rel=0.01)


def test_the_largest_numbers_have_a_scale() -> None:
    h = Histogram()
    h.add(np.array([[-3e38, 3e38]], np.float32))
    r = h.range()
    assert np.isfinite(np.float32(r.scale)) and 0 <= r.zero_point <= 255


def test_batches_without_a_common_first_axis_stay_whole() -> None:
    x, state, rate = np.zeros((16, 4), "f"), np.zeros((2, 16, 3), "f"), np.array(8000)
    (part,) = chunks([(x, state, rate)], None)
    assert [a.shape for a in part] == [(16, 4), (2, 16, 3), ()]


def test_the_rule_is_taken_by_trial() -> None:
    """A rare large value carries the output: clipping it would look good at the tensor and be wrong behind it."""
    x = gaussian(64, 16) * 0.1
    x[::8, 0] = 30.0
    weight = WEIGHT * 1e-3
    weight[0] = 1.0
    model, batches = graph(weight), [(x,)]
    layer = Layer("fc.weight", "linear", torch.from_numpy(weight.T.copy()))
    plan = Coded((layer,), {layer.name: grid(layer)}, {layer.name: "int8"})
    errors = {
        rule: disturbance(model, plan, ranges(model, plan, batches, Rules(), rule), Rules(), batches)
        for rule in ("mse", "weighted", "minmax", None)
    }
    assert errors[None] == pytest.approx(min(errors.values()))


def test_importance_of_channels_counts_what_reads_them() -> None:
    model = graph(WEIGHT)
    fisher = torch.arange(1.0, 9.0)
    plan = Coded((LAYER,), {}, {}, {LAYER.name: fisher})
    wanted = (fisher.double()[:, None] * LAYER.matrix.double().square()).sum(0).numpy()
    found = importances(model, plan)["h"]
    assert found.axis == -1 and np.allclose(found.channels, wanted / wanted.mean())


def bursts(n: int = 64) -> torch.Tensor:
    """Samples of very different sizes: one range for all wastes most of its codes."""
    return (
        gaussian(n, 16)
        * torch.logspace(-3, 0, n)[torch.randperm(n, generator=torch.Generator().manual_seed(0))][:, None]
    )


@pytest.mark.parametrize("bias", [None, np.arange(8)])
def test_dynamic_ranges_follow_each_batch_in_integers(bias, tmp_path) -> None:
    target, x, model = OnnxRuntime(), bursts(), graph(WEIGHT, 1.0, bias)
    found = target.ranges(model, coded(), [(x[i : i + 1],) for i in range(64)])
    assert found["h"].live
    path = target.export(model, tmp_path / "m.onnx", coded(), found)
    assert {n.op_type for n in ir.load(path).graph} >= {"DynamicQuantizeLinear", "MatMulInteger"}
    assert len(target.verify(path).integer) == 1
    session, quiet = target.session(path), x[x.abs().amax(1).argmin()][None]
    wanted = quiet @ torch.from_numpy(WEIGHT) + (0 if bias is None else torch.from_numpy(bias).float())
    assert sqnr(wanted, session((quiet,))[0]) > 30
    if bias is None:
        still = {n: Range(r.low, r.high) for n, r in found.items()}
        fixed = target.session(target.export(model, tmp_path / "s.onnx", coded(), still))
        assert sqnr(wanted, fixed((quiet,))[0]) < 20


def test_dynamic_ranges_only_where_the_runtime_has_kernels() -> None:
    found = OpenVINO().ranges(graph(WEIGHT), coded(), [(bursts(),)])
    assert not any(r.live for r in found.values())


def test_alike_samples_keep_one_range() -> None:
    x = gaussian(64, 16)
    h = seen(x.numpy())
    assert live_noise(h) > 0.3 * noise(h, h.range())
    assert not OnnxRuntime().ranges(graph(WEIGHT), coded(), [(x,)])["h"].live


def test_a_range_that_clips_what_hardly_matters_is_not_given_up_for_the_extremes_of_a_batch(tmp_path) -> None:
    """As in Whisper's last layer: what was silent on the calibration data and hardly matters would set the step."""
    weight = WEIGHT.copy()
    weight[:2] *= 1e-6
    layer = Layer("fc.weight", "linear", torch.from_numpy(weight.T.copy()), 0)
    plan = Coded((layer,), {layer.name: grid(layer)}, {layer.name: "int8"})
    x = gaussian(64, 16).clamp(-2, 2)
    x[:, 0] = torch.tensor([-40.0, 40.0]).repeat(32)  # the weighted rule leaves this channel out: noisy, and right
    x[:, 1] = 0
    target = OnnxRuntime("weighted")
    found = target.ranges(graph(weight), plan, [(x,)])
    h = seen(x.numpy())
    assert noise(h, found["h"]) > 10 * live_noise(h)  # against its own range the batch's looks better
    woken = x.clone()
    woken[:, 1] = 3e4
    session = target.session(target.export(graph(weight), tmp_path / "m.onnx", plan, found))
    wanted = woken @ torch.from_numpy(weight)
    assert sqnr(wanted, session((woken,))[0]) > 15 and not found["h"].live


def test_what_is_stored_but_not_executed_is_said() -> None:
    few = {LAYER.name: grid(LAYER, 3)}
    (text,) = stored_only(OpenVINO(), (LAYER,), few)
    assert text.startswith("openvino runs weights at 8 bits; 3 are stored, not executed: fc.weight")
    assert stored_only(OpenVINO(), (LAYER,), {LAYER.name: grid(LAYER)}) == []


@pytest.mark.parametrize("keep", [0, 1])
def test_a_mean_over_positions_is_pooled_in_integers(keep, tmp_path) -> None:
    """Conv -> Relu -> mean -> linear: no float between the two products, and no rounding more than before."""
    conv, fc = gaussian(8, 3, 3, 3).numpy() / 5, gaussian(8, 4).numpy()
    init = {"conv.weight": conv, "fc.weight": fc, "axes": np.array([2, 3]), "shape": np.array([-1, 8])}
    nodes = [helper.make_node("Conv", ["x", "conv.weight"], ["c"], pads=[1, 1, 1, 1]),
             helper.make_node("Relu", ["c"], ["r"]),
             helper.make_node("ReduceMean", ["r", "axes"], ["m"], keepdims=keep),
             helper.make_node("Reshape", ["m", "shape"], ["v"]),
             helper.make_node("MatMul", ["v", "fc.weight"], ["y"])]  # fmt: skip
    value = helper.make_tensor_value_info
    made = helper.make_graph(nodes, "g", [value("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
                             [value("y", TensorProto.FLOAT, ["n", 4])],
                             [numpy_helper.from_array(a, k) for k, a in init.items()])  # fmt: skip
    proto = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)])
    proto.ir_version = 9
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    layers = (Layer("conv.weight", "conv", torch.from_numpy(conv)),
              Layer("fc.weight", "linear", torch.from_numpy(fc.T.copy())))  # fmt: skip
    plan, target, x = Coded(layers, {n.name: grid(n) for n in layers}), OnnxRuntime(), gaussian(40, 3, 8, 8)
    path = target.export(model, tmp_path / "m.onnx", plan, target.ranges(model, plan, [(x,)]))
    assert "ReduceMean" not in {n.op_type for n in ir.load(path).graph}
    assert len(target.verify(path).integer) == 2
    wanted = torch.relu(torch.conv2d(x, torch.from_numpy(conv), padding=1)).mean((2, 3)) @ torch.from_numpy(fc)
    assert sqnr(wanted, target.session(path)((x,))[0]) > 30


def test_layers_that_read_the_same_round_it_once(tmp_path) -> None:
    """Query, key and value: one DynamicQuantizeLinear, three integer products."""
    weights = {f"{n}.weight": gaussian(16, 8, seed=i).numpy() for i, n in enumerate("qkv")}
    nodes = [helper.make_node("MatMul", ["x", n], [n[0]]) for n in weights]
    nodes += [helper.make_node("Add", ["q", "k"], ["s"]), helper.make_node("Mul", ["s", "v"], ["y"])]
    value = helper.make_tensor_value_info
    made = helper.make_graph(nodes, "g", [value("x", TensorProto.FLOAT, ["n", 16])],
                             [value("y", TensorProto.FLOAT, ["n", 8])],
                             [numpy_helper.from_array(w, n) for n, w in weights.items()])  # fmt: skip
    model = ir.from_proto(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))
    layers = tuple(Layer(n, "linear", torch.from_numpy(w.T.copy())) for n, w in weights.items())
    plan, target, x = Coded(layers, {n.name: grid(n) for n in layers}), OnnxRuntime(), bursts()
    path = target.export(
        model, tmp_path / "m.onnx", plan, target.ranges(model, plan, [(x[i : i + 1],) for i in range(64)])
    )
    assert [n.op_type for n in ir.load(path).graph].count("DynamicQuantizeLinear") == 1
    assert len(target.verify(path).integer) == 3 and not target.verify(path).floating
    q, k, v = (x[:1] @ torch.from_numpy(w) for w in weights.values())
    assert sqnr((q + k) * v, target.session(path)((x[:1],))[0]) > 28


class Three(torch.nn.Module):
    """A depthwise convolution between two others."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.third = torch.nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.third(torch.relu(self.second(torch.relu(self.first(x))))).sum((2, 3))


@pytest.mark.parametrize("held", ["kept", "weight"])
def test_the_runtime_does_not_round_a_layer_that_was_left_alone(held, tmp_path) -> None:
    """ONNX Runtime rounds the weight of any convolution that reads quantized values, one scale for the tensor."""
    x = gaussian(40, 3, 8, 8)
    module, layers, model = exported(Three, x)
    codings = {n.name: grid(n) for n in layers if held == "weight" or "second" not in n.name}
    how = {n.name: "weight" if "second" in n.name else "int8" for n in layers if n.name in codings}
    plan, target = Coded(layers, codings, how), OnnxRuntime()
    path = target.export(model, tmp_path / "m.onnx", plan, target.ranges(model, plan, [(x,)]))
    assert sqnr(module(x).detach(), target.session(path)((x,))[0]) > 25
    kernels = target.verify(path)
    assert (len(kernels.integer), len(kernels.floating)) == ((2, 1) if held == "kept" else (3, 0))
