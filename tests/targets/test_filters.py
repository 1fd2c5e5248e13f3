"""Long filters of one channel as products with rows of the signal: the same sums."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from lessen.targets.filters import rowed
from lessen.targets.graph import run_onnx

RNG = np.random.default_rng(0)


def filtered(count=1, taps=64, stride=2, length=1000, pads=(0, 0), between=1, known=True, bias=True, op="", **more):
    """x [b, 1, (1,) length] -> Conv, perhaps an operator in front."""
    ones = [1] * between
    w = RNG.standard_normal((count, more.pop("channels", 1), *ones, taps)).astype(np.float32)
    stored = [numpy_helper.from_array(w, "w"), numpy_helper.from_array(RNG.random(count).astype(np.float32), "b")]
    attributes = {"strides": [*ones, stride], "pads": [*[0] * between, pads[0], *[0] * between, pads[1]]} | more
    nodes = [helper.make_node(op, ["x"], ["z"], "front")] if op else []
    nodes += [helper.make_node("Conv", ["z" if op else "x", "w", *["b"] * bias], ["y"], "conv", **attributes),
              helper.make_node("Relu", ["y"], ["r"], "relu")]  # fmt: skip
    shape = ["n", w.shape[1], *ones, length if known else "length"]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("r", "y")], stored[: 1 + bias],
    )  # fmt: skip
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    return model, RNG.standard_normal((2, w.shape[1], *ones, length)).astype(np.float32)


@pytest.mark.parametrize("case", [
    {}, {"stride": 1, "taps": 33}, {"stride": 3, "pads": (5, 2)}, {"count": 5, "stride": 4, "between": 0},
    {"count": 9, "stride": 64, "taps": 256, "length": 9000}, {"count": 2, "stride": 7, "taps": 32, "pads": (31, 40)},
    {"bias": False, "length": 2000}, {"count": 15, "stride": 8, "taps": 32, "length": 2000}, {"op": "Neg"},
], ids=str)  # fmt: skip
def test_the_same_values_from_rows(case):
    model, x = filtered(**case)
    wanted = run_onnx(model, [x])
    rowed(model)
    (conv,) = [n for n in model.graph if n.op_type == "Conv"]
    assert conv.name == "conv" and any(n.name == "rows.0" for n in model.graph)
    for a, b in zip(wanted, run_onnx(model, [x]), strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(b, a, atol=1e-4)
    assert [o.name for o in model.graph.outputs] == ["r", "y"]


def test_one_matrix_for_all_that_a_filter_is_used_for():
    model, x = filtered()
    conv = next(n for n in model.graph if n.op_type == "Conv")
    again = ir.node("Conv", [*conv.inputs], attributes=dict(conv.attributes), name="again")
    again.outputs[0].name, again.outputs[0].type = "again", conv.outputs[0].type
    model.graph.append(again)
    model.graph.outputs.append(again.outputs[0])
    wanted = run_onnx(model, [x])
    rowed(model)
    assert sum(n.op_type == "Expand" for n in model.graph) == 1
    for a, b in zip(wanted, run_onnx(model, [x]), strict=True):
        np.testing.assert_allclose(b, a, atol=1e-4)


@pytest.mark.parametrize("case", [
    {"taps": 16}, {"count": 16}, {"length": 200}, {"known": False}, {"channels": 2}, {"dilations": [1, 2]},
    {"auto_pad": "SAME_UPPER", "pads": None},
], ids=str)  # fmt: skip
def test_left_alone(case):
    case = {**case}
    same = case.pop("pads", ()) is None
    model, _ = filtered(**case)
    if same:
        next(n for n in model.graph if n.op_type == "Conv").attributes.pop("pads")
    before = [n.op_type for n in model.graph]
    rowed(model)
    assert [n.op_type for n in model.graph] == before
