"""Transpositions in front of a concatenation: the same values, copied in larger pieces."""

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from lessen.targets.carried import carried
from lessen.targets.graph import run_onnx

SHAPE = (2, 5, 6, 1)


def stacked(perm=(0, 3, 1, 2), axis=-1, between="Slice", output=False, parts=3) -> ir.Model:
    """parts x [2, 5, 6, 1] -> Concat -> Slice of axes 1 and 2 -> Transpose."""
    ints = {"starts": [1, 0], "ends": [5, 4], "axes": [1, -2]}
    stored = [numpy_helper.from_array(np.array(v, np.int64), n) for n, v in ints.items()]
    nodes = [helper.make_node("Concat", [f"x{i}" for i in range(parts)], ["c"], "concat", axis=axis)]
    if between == "Slice":
        nodes.append(helper.make_node("Slice", ["c", *ints], ["s"], "slice"))
    else:
        nodes.append(helper.make_node(between, ["c"], ["s"], "between"))
    nodes.append(helper.make_node("Transpose", ["s"], ["t"], "transpose", perm=perm))
    nodes.append(helper.make_node("Relu", ["t"], ["y"], "relu"))
    inputs = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, SHAPE) for i in range(parts)]
    named = ["y", "c"] if output else ["y"]
    outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in named]
    graph = helper.make_graph(nodes, "g", inputs, outputs, stored if between == "Slice" else [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return ir.from_proto(model)


def answers(model: ir.Model, parts: int = 3) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return run_onnx(model, [rng.standard_normal(SHAPE).astype(np.float32) for _ in range(parts)])


def order(model: ir.Model) -> list[str]:
    return [n.op_type for n in model.graph]


@pytest.mark.parametrize("perm", [(0, 3, 1, 2), (0, 3, 2, 1), (3, 0, 2, 1), (0, 1, 3, 2)])
def test_the_transposition_goes_first_and_nothing_changes(perm):
    model = stacked(perm)
    wanted = answers(model)
    carried(model)
    assert order(model) == ["Transpose"] * 3 + ["Concat", "Slice", "Relu"]
    assert all(np.array_equal(a, b) for a, b in zip(wanted, answers(model), strict=True))


def test_a_transposition_that_is_the_output_keeps_its_name():
    model = stacked()
    transpose = next(n for n in model.graph if n.op_type == "Transpose")
    model.graph.outputs[0] = transpose.outputs[0]
    wanted = answers(model)
    carried(model)
    assert model.graph.outputs[0].name == "t" and order(model)[:3] == ["Transpose"] * 3
    assert np.array_equal(wanted[0], answers(model)[0])


@pytest.mark.parametrize(
    "changed",
    [{"perm": (0, 2, 1, 3)}, {"axis": 1}, {"between": "Neg"}, {"output": True}],
    ids=["innermost stays", "rows already", "something else between", "needed as it is"],
)
def test_left_alone(changed):
    model = stacked(**changed)
    before, wanted = order(model), answers(model)
    carried(model)
    assert order(model) == before
    assert all(np.array_equal(a, b) for a, b in zip(wanted, answers(model), strict=True))
