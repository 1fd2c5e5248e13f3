"""A file written in pieces is the file."""

import numpy as np
import onnx_ir as ir
import pytest

from lessen.targets.graph import in_pieces, serialized

KINDS = [np.float32, np.float64, np.int8, np.uint8, np.int64, np.float16]


def model(kind: type, wide: int) -> ir.Model:
    """A large weight of this kind (a transposed view), one with a note, a small one, and one of four bits."""
    x = ir.Value(name="x", shape=ir.Shape(["n", wide]), type=ir.TensorType(ir.DataType.FLOAT))
    large = ir.tensor((np.arange(wide * 300) % 100).reshape(wide, 300).astype(kind).T, name="large")
    noted = ir.Tensor(np.ones((wide, 300), np.float32), name="noted", doc_string="a note")
    four = ir.Tensor(np.zeros((600, 600), np.uint8), dtype=ir.DataType.UINT4, name="four")
    weights = []
    for t in (large, noted, ir.tensor(np.ones(3, np.float32), name="small"), four):
        weights.append(ir.Value(name=t.name, const_value=t, shape=ir.Shape(t.shape), type=ir.TensorType(t.dtype)))
    nodes = [ir.node("Identity", [w], outputs=[ir.Value(name=f"of_{w.name}")]) for w in weights]
    graph = ir.Graph([x], [n.outputs[0] for n in nodes], nodes=nodes, initializers=weights, opset_imports={"": 21})
    return ir.Model(graph, ir_version=10, producer_name="p", metadata_props={"a": "b"})


def whole(m: ir.Model) -> bytes:
    proto = ir.to_proto(m)
    del proto.graph.value_info[:]
    return bytes(proto.SerializeToString(deterministic=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wide", [1, 1000])
def test_pieces_are_the_file(kind: type, wide: int) -> None:
    m = model(kind, wide)
    assert serialized(m) == whole(m)


def test_weights_are_left_as_they_were_and_come_one_by_one() -> None:
    m = model(np.float32, 1000)
    before = {n: v.const_value for n, v in m.graph.initializers.items()}
    sizes = [len(p) for p in in_pieces(m)]
    assert all(m.graph.initializers[n].const_value is held for n, held in before.items())
    assert sizes.count(1_200_000) == 1 and len(sizes) > 5
