"""Large weights of graphs in memory are written once, however many graphs hold them."""

import gc
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from lessen.targets.beside import Beside
from lessen.targets.graph import ort_session

WIDE = 256  # 256 KB of weights


def graph(scale: float = 1.0, transposed: bool = False) -> ir.Model:
    x = ir.Value(name="x", shape=ir.Shape(["n", WIDE]), type=ir.TensorType(ir.DataType.FLOAT))
    w = np.random.default_rng(0).normal(size=(WIDE, WIDE)).astype(np.float32)
    array = np.ascontiguousarray(w.T).T if transposed else w
    value = ir.Value(name="w", const_value=ir.tensor(scale * array, name="w"), shape=ir.Shape(w.shape))
    value.type = ir.TensorType(ir.DataType.FLOAT)
    product = ir.node("MatMul", [x, value])
    made = ir.Graph([x], [product.outputs[0]], nodes=[product], initializers=[value], opset_imports={"": 17}, name="g")
    product.outputs[0].name = "y"
    product.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    return ir.Model(made, ir_version=10)


def weights_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name.startswith("weights"))


@pytest.mark.parametrize("transposed", [False, True])
def test_it_answers_as_the_graph_in_memory_does(transposed: bool) -> None:
    model, x = graph(transposed=transposed), np.ones((2, WIDE), np.float32)
    wanted = ort_session(ir.to_proto(model).SerializeToString()).run(None, {"x": x})[0]
    with Beside().saved(model) as path:
        got = ort_session(str(path)).run(None, {"x": x})[0]
    np.testing.assert_array_equal(wanted, got)


def test_a_second_graph_with_the_same_weights_writes_none_and_another_one_does() -> None:
    store, model = Beside(), graph()
    with store.saved(model) as path:
        folder = path.parent
        assert path.stat().st_size < WIDE * WIDE < (folder / weights_in(folder)[0]).stat().st_size
    with store.saved(model.clone()) as again:
        assert weights_in(folder) == weights_in(again.parent) and len(weights_in(folder)) == 1
    assert not path.exists() and not again.exists()
    other = graph(2.0)
    with store.saved(other):
        assert len(weights_in(folder)) == 2


def test_the_graph_keeps_its_own_arrays_and_weights_go_with_the_last_that_holds_them() -> None:
    store, model = Beside(), graph()
    with store.saved(model) as path:
        folder = path.parent
    assert type(model.graph.initializers["w"].const_value) is ir.Tensor
    del model
    gc.collect()
    assert weights_in(folder) == []
