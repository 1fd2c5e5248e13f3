"""Factors, summands and hard swishes between convolutions: the same values with fewer operators."""

import collections
import copy

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, save_model

from lessen.artifact import Exporter
from lessen.bench import Bench, Compressed
from lessen.models import fold_and_trace
from lessen.models.onnx_import import load_onnx
from lessen.targets import float_onnx, target
from lessen.targets.affine import FOLDED, folded, rewritten
from lessen.targets.graph import run_onnx

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 8, 8)).astype(np.float32)
STORED = {
    "w1": RNG.standard_normal((4, 3, 3, 3)) / 5, "b1": RNG.standard_normal(4), "w2": RNG.standard_normal((4, 1, 3, 3)),
    "w3": RNG.standard_normal((5, 4, 1, 1)), "b3": RNG.standard_normal(5), "wt": RNG.standard_normal((4, 2, 3, 3)),
    "half": 0.5, "minus": -2.0, "third": 1 / 3, "three": 3.0, "zero": 0.0, "six": 6.0, "each": RNG.random((4, 1, 1)),
}  # fmt: skip
CONV1, CONV3 = ("Conv", "x w1 b1", "a", {"pads": [1] * 4}), ("Conv", "{} w3 b3", "y", {})
SWISH = [("Add", "{} three", "p", {}), ("Clip", "p zero six", "c", {})]
GATES = {
    "clip, times x, by 6": [*SWISH, ("Mul", "{} c", "m", {}), ("Div", "m six", "s", {})],
    "x times a sixth of the clip": [*SWISH, ("Div", "c six", "m", {}), ("Mul", "m {}", "s", {})],
    "hard sigmoid": [("HardSigmoid", "{}", "c", {"alpha": 1 / 6, "beta": 0.5}), ("Mul", "{} c", "s", {})],
}


def model_of(*nodes, outputs=("y",), opset=13) -> ir.Model:
    made = [helper.make_node(op, i.split(), o.split(), o, **more) for op, i, o, more in nodes]
    read = {i for n in made for i in n.input}
    stored = [numpy_helper.from_array(np.asarray(v, np.float32), n) for n, v in STORED.items() if n in read]
    shown = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs]
    graph = helper.make_graph(
        made, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 3, 8, 8])], shown, stored
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8))


def shortened(model: ir.Model) -> list[str]:
    """The operators left; the values are the same as before."""
    wanted = run_onnx(model, [X])
    folded(model)
    for a, b in zip(wanted, run_onnx(model, [X]), strict=True):
        np.testing.assert_allclose(b, a, atol=2e-5 * np.abs(a).max())
    return [n.op_type for n in model.graph]


@pytest.mark.parametrize("way", GATES, ids=list(GATES))
def test_a_hard_swish_is_one_operator(way):
    gates = [(op, i.format("a"), o, more) for op, i, o, more in GATES[way]]
    model = model_of(CONV1, *gates, (CONV3[0], CONV3[1].format("s"), "y", {}))
    assert shortened(model) == ["Conv", "HardSwish", "Conv"]
    assert model.graph.opset_imports[""] == 14  # of 13, which has none


def test_what_only_looks_like_one_stays():
    clip = [("Add", "a half", "p", {}), ("Clip", "p zero six", "c", {})]
    assert "Clip" in shortened(model_of(CONV1, *clip, ("Mul", "a c", "m", {}), ("Div", "m six", "y", {})))
    other = [(op, i.format("a"), o, more) for op, i, o, more in SWISH]
    assert "Clip" in shortened(model_of(CONV1, *other, ("Mul", "p c", "m", {}), ("Div", "m six", "y", {})))
    assert "Clip" in shortened(model_of(CONV1, *other, ("Mul", "a c", "y", {})))


def test_what_is_behind_a_convolution_is_in_it():
    behind = [("Mul", "half a", "m", {}), ("Add", "m three", "n", {}), ("Div", "n six", "o", {}),
              ("Sub", "o third", "p", {})]  # fmt: skip
    model = model_of(CONV1, *behind, ("Relu", "p", "y", {}))
    assert shortened(model) == ["Conv", "Relu"]
    assert shortened(model_of(CONV1, ("Mul", "a half", "y", {}))) == ["Conv"]  # the output keeps its name


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        ([CONV1, ("Mul", "a minus", "y", {})], ["y"]),
        ([CONV1, ("Mul", "a each", "y", {})], ["y"]),
        ([CONV1, ("Mul", "a half", "y", {})], ["y", "a"]),
        ([CONV1, ("Mul", "a half", "m", {}), ("Add", "a m", "y", {})], ["y"]),
        ([CONV1, ("Conv", "x w1", "k", {"pads": [1] * 4}), ("Mul", "a half", "m", {}), ("Add", "m k", "y", {})], ["y"]),
    ],
    ids=["would turn signs", "by channel", "read as it was", "read twice", "weight of two"],
)
def test_left_alone(nodes, outputs):
    before = [op for op, *_ in nodes]
    assert shortened(model_of(*nodes, outputs=outputs)) == before


def test_what_is_in_front_of_convolutions_is_in_them():
    """The summand too where there is no border of zeros that it would be missing from."""
    front = [("Relu", "a", "r", {}), ("Mul", "r half", "m", {}), ("Add", "m third", "n", {})]
    one = (CONV3[0], CONV3[1].format("n"), "y", {})
    assert shortened(model_of(CONV1, *front, one)) == ["Conv", "Relu", "Conv"]
    padded = ("Conv", "n w2", "z", {"pads": [1] * 4, "group": 4})
    model = model_of(CONV1, *front, padded, one, outputs=["y", "z"])
    assert shortened(model) == ["Conv", "Relu", "Add", "Conv", "Conv"]
    turned = ("ConvTranspose", "n wt", "y", {"group": 2})
    assert shortened(model_of(CONV1, *front, turned)) == ["Conv", "Relu", "Add", "ConvTranspose"]


def test_what_another_operator_reads_too_stays():
    front = [("Relu", "a", "r", {}), ("Mul", "r half", "m", {})]
    model = model_of(
        CONV1, *front, (CONV3[0], CONV3[1].format("m"), "y", {}), ("Neg", "m", "z", {}), outputs=["y", "z"]
    )
    assert collections.Counter(shortened(model))["Mul"] == 1


def test_an_initializer_remembers_what_was_done_to_it():
    model = model_of(CONV1, ("Mul", "a half", "m", {}), ("Add", "m three", "y", {}))
    folded(model)
    bias = model.graph.initializers["b1"]
    np.testing.assert_allclose(rewritten(bias, np.zeros(4, np.float32)), 3.0)
    np.testing.assert_allclose(rewritten(bias, np.asarray(STORED["b1"], np.float32)), bias.const_value.numpy(), 1e-6)
    assert FOLDED in model.clone().graph.initializers["b1"].meta
    assert np.array_equal(rewritten(ir.Value(name="free"), X), X)


@pytest.fixture
def network(tmp_path):
    """Conv -> batch norm -> * 0.5 + 3 -> Relu -> * 1/3 -> Conv, by names with capitals, no bias in the file."""
    for name in ("g", "h", "i", "j"):
        STORED[name] = 0.5 + RNG.random(4)
    nodes = [("Conv", "x w1", "Conv.0", {}), ("BatchNormalization", "Conv.0 g h i j", "BatchNorm.0", {}),
             ("Mul", "BatchNorm.0 half", "m", {}), ("Add", "m three", "n", {}), ("Relu", "n", "r", {}),
             ("Mul", "r third", "t", {}), ("Conv", "t w3 b3", "y", {})]  # fmt: skip
    save_model(ir.to_proto(model_of(*nodes)), tmp_path / "n.onnx")
    return load_onnx(tmp_path / "n.onnx")


def test_a_batch_norm_whose_name_has_capitals_is_folded(network):
    module, norms, traced = fold_and_trace(network, (torch.from_numpy(X),))
    assert len(norms) == 1 and len(traced.layers) == 2
    model = float_onnx(module, (torch.from_numpy(X),))
    assert [n.op_type for n in model.graph] == ["Conv", "Relu", "Conv"]


def test_parameters_that_change_later_are_folded_alike(network):
    """A corrected bias and a weight that was trained, in a graph that holds them times something."""
    x = torch.from_numpy(X)
    module, norms, traced = fold_and_trace(network, (x,))
    bench = Bench(module, traced, {}, norms)
    exporter = Exporter(target("onnxruntime"), bench, (x,), None)
    changed = copy.deepcopy(module)
    with torch.no_grad():
        for p in changed.parameters():
            p.add_(torch.rand(p.shape, generator=torch.Generator().manual_seed(0)))
    layers = {x.name: x for x in traced.layers}
    graph = exporter.graph_of(Compressed(changed, layers, {}, {}))
    np.testing.assert_allclose(run_onnx(graph, [X])[0], changed(x).detach().numpy(), atol=1e-4)
