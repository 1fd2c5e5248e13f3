"""The importer: files in, equal outputs, files out; hostile files refused."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from lessen.errors import LessenError
from lessen.factorize import SVD
from lessen.models import trace
from lessen.models.groups import find_groups
from lessen.models.onnx_import import OnnxModule, load_onnx
from lessen.models.surgery import shrink
from lessen.quantize import Uniform
from lessen.share import KMeans
from lessen.stack import Stack
from lessen.statistics import Statistics, collect
from lessen.targets import Coded, OnnxRuntime, Packed, float_onnx

rng = np.random.default_rng(0)


def initializer(name: str, *shape: int) -> TensorProto:
    return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)


def save(path: Path, nodes: list[Any], given: list[Any], outputs: list[Any], initializers: list[TensorProto],
         opset: int = 17) -> Path:  # fmt: skip
    """Write a model; `given` and `outputs` are (name, type, shape)."""
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info(*i) for i in given],
                              [helper.make_tensor_value_info(*o) for o in outputs], initializers)  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), path)
    return path


@pytest.fixture
def cnn(tmp_path: Path) -> Path:
    """Conv, BatchNormalization, a depthwise Conv, pooling, a Gemm."""
    n = helper.make_node
    nodes = [
        n("Conv", ["x", "c.weight"], ["a"], "c", pads=[0, 0, 1, 1], strides=[2, 2]),
        n("BatchNormalization", ["a", "s", "b", "m", "v"], ["d"], "norm"),
        n("Relu", ["d"], ["e"]),
        n("Conv", ["e", "w2", "b2"], ["f"], "depthwise", group=8, pads=[1, 1, 1, 1]),
        n("GlobalAveragePool", ["f"], ["h"]),
        n("Flatten", ["h"], ["i"]),
        n("Gemm", ["i", "head.weight", "head.bias"], ["y"], "gemm", transB=1),
    ]
    variance = numpy_helper.from_array(np.full(8, 1.5, np.float32), "v")
    weights = [initializer("c.weight", 8, 3, 3, 3), *(initializer(k, 8) for k in "sbm"), variance,
               initializer("w2", 8, 1, 3, 3), initializer("b2", 8), initializer("head.weight", 5, 8),
               initializer("head.bias", 5)]  # fmt: skip
    return save(tmp_path / "cnn.onnx", nodes, [("x", 1, ["batch", 3, 16, 16])], [("y", 1, ["batch", 5])], weights)


def runtime(path: Path, *inputs: torch.Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {i.name: v.numpy() for i, v in zip(session.get_inputs(), inputs)})


def written(module: OnnxModule, path: Path) -> Path:
    ir.save(module.to_onnx(), path)
    onnx.checker.check_model(str(path), full_check=True)
    return path


def close(got: torch.Tensor, want: np.ndarray) -> None:
    np.testing.assert_allclose(got.detach().numpy(), want, rtol=1e-4, atol=1e-5)


def x(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(batch))


def test_equals_onnxruntime_at_any_batch(cnn: Path) -> None:
    module = load_onnx(cnn)
    assert module.input_shapes == (("batch", 3, 16, 16),) and module.input_dtypes == (torch.float32,)
    assert not module.opaque
    for batch in (1, 3):
        close(module(x(batch)), runtime(cnn, x(batch))[0])


def test_weights_are_ordinary_modules(cnn: Path) -> None:
    module = load_onnx(cnn)
    kinds = {name: type(m) for name, m in module.named_children()}
    assert kinds == {"c": nn.Conv2d, "norm": nn.BatchNorm2d, "depthwise": nn.Conv2d, "head": nn.Linear}
    module(x()).sum().backward()
    assert all(p.grad is not None for p in module.parameters())
    assert module.initializer_of("head.weight") == ("head.weight", False)
    with pytest.raises(LessenError, match=r"no initializer holds 'head\.wait'"):
        module.initializer_of("head.wait")


def test_loading_leaves_the_global_generator_alone(cnn: Path) -> None:
    before = torch.random.get_rng_state()
    load_onnx(cnn)
    assert torch.equal(before, torch.random.get_rng_state())


def test_trained_weights_are_written_back(cnn: Path, tmp_path: Path) -> None:
    module = load_onnx(cnn)
    twin = copy.deepcopy(module)
    with torch.no_grad():
        module.get_parameter("head.weight").mul_(2)
    old, new = onnx.load(cnn), onnx.load(written(module, tmp_path / "out.onnx"))
    assert [(n.name, list(n.input), list(n.output)) for n in old.graph.node] == [
        (n.name, list(n.input), list(n.output)) for n in new.graph.node
    ]
    assert new.graph.input[0].type == old.graph.input[0].type  # the dynamic axis is still there
    close(module(x()), runtime(tmp_path / "out.onnx", x())[0])
    close(twin(x()), runtime(cnn, x())[0])  # a copy has weights of its own


def test_removed_channels_are_written_back(cnn: Path, tmp_path: Path) -> None:
    module = load_onnx(cnn)
    keep = torch.tensor([0, 2, 5])
    for path in ("c.weight", "norm.weight", "norm.bias", "depthwise.weight", "depthwise.bias"):
        owner, _, name = path.partition(".")
        setattr(module.get_submodule(owner), name, nn.Parameter(module.get_parameter(path)[keep].detach()))
    norm, head = module.get_submodule("norm"), module.get_submodule("head")
    norm.running_mean, norm.running_var = norm.running_mean[keep], norm.running_var[keep]
    head.weight = nn.Parameter(head.weight[:, keep].detach())
    module.get_submodule("depthwise").groups = 3
    close(module(x()), runtime(written(module, tmp_path / "small.onnx"), x())[0])


def test_folded_and_factorized_layers_are_written_back(cnn: Path, tmp_path: Path) -> None:
    module = load_onnx(cnn)
    module.norm = nn.Identity()
    module.c.bias = nn.Parameter(torch.linspace(-1, 1, 8))
    module.head = nn.Sequential(nn.Linear(8, 2, bias=False), nn.Linear(2, 5))
    close(module(x()), runtime(written(module, tmp_path / "folded.onnx"), x())[0])
    module.head = nn.Bilinear(1, 1, 1)
    with pytest.raises(LessenError, match="a Bilinear stands where Gemm 'gemm' was"):
        module.to_onnx()


def test_exports_with_a_dynamic_batch(cnn: Path) -> None:
    module = load_onnx(cnn)
    dynamic = {"inputs": ({0: torch.export.Dim("batch")},)}
    program = torch.export.export(module, (x(2),), dynamic_shapes=dynamic, strict=False)
    torch.testing.assert_close(program.module()(x(5)), module(x(5)))


def test_matmul_and_shared_embedding(tmp_path: Path) -> None:
    n = helper.make_node
    nodes = [
        n("Gather", ["table.weight", "i"], ["e"]),
        n("MatMul", ["e", "w"], ["p"], "mm"),
        n("Add", ["p", "fc.bias"], ["q"]),
        n("Transpose", ["table.weight"], ["t"], perm=[1, 0]),
        n("MatMul", ["q", "t"], ["y"], "out"),
    ]
    path = save(tmp_path / "m.onnx", nodes, [("i", 7, ["b", "s"])], [("y", 1, ["b", "s", 9])],
                [initializer("table.weight", 9, 4), initializer("w", 4, 4), initializer("fc.bias", 4)])  # fmt: skip
    module = load_onnx(path)
    index = torch.tensor([[0, 8, -1]])
    close(module(index), runtime(path, index)[0])
    assert module.get_submodule("out").weight is module.get_submodule("table").weight
    assert module.initializer_of("fc.weight") == ("w", True) and module.initializer_of("fc.bias") == ("fc.bias", False)
    with torch.no_grad():
        module.get_parameter("fc.weight").add_(1)
    close(module(index), runtime(written(module, tmp_path / "n.onnx"), index)[0])


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_recurrent(tmp_path: Path, kind: str) -> None:
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    node = helper.make_node(kind, ["x", "w", "r", "b"], ["y"], "rnn", hidden_size=5, direction="bidirectional")
    weights = [initializer("w", 2, gates * 5, 3), initializer("r", 2, gates * 5, 5), initializer("b", 2, gates * 10)]
    path = save(tmp_path / "r.onnx", [node], [("x", 1, ["t", "b", 3])], [("y", 1, ["t", 2, "b", 5])], weights)
    module, steps = load_onnx(path), torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(0))
    close(module(steps), runtime(path, steps)[0])
    assert module.get_parameter("rnn.weight_hh_l0_reverse").shape == (gates * 5, 5)
    with torch.no_grad():
        module.get_parameter("rnn.bias_hh_l0").add_(1)
    close(module(steps), runtime(written(module, tmp_path / "s.onnx"), steps)[0])


def pytorch_gates(weight: str) -> list[Any]:
    """How PyTorch's exporter turns i f g o into ONNX's i o f c, and adds the axis of directions."""
    order = ((0, 5), (15, 20), (5, 15))
    cut = [
        helper.make_node("Slice", [weight, f"{weight}{a}", f"{weight}{b}", "zero"], [f"{weight}_{a}"]) for a, b in order
    ]
    return [*cut, helper.make_node("Concat", [f"{weight}_{a}" for a, _ in order], [f"{weight}c"], axis=0),
            helper.make_node("Unsqueeze", [f"{weight}c", "zero"], [f"{weight}u"])]  # fmt: skip


def test_gates_that_the_graph_puts_together_are_a_recurrent_layer_in_both_branches(tmp_path: Path) -> None:
    """As in Silero's file: weights outside, the same LSTM in each branch, its gates put in order there."""

    def branch(name: str) -> onnx.GraphProto:
        nodes = [
            *pytorch_gates("w"),
            *pytorch_gates("r"),
            helper.make_node("LSTM", ["x", "wu", "ru"], ["y"], "rnn", hidden_size=5),
        ]
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info("y", 1, ["t", 1, "b", 5])])

    def sizes(weight: str) -> list[TensorProto]:
        edges = ((0, 5), (15, 20), (5, 15))
        made = {f"{weight}{e}": np.array([e], np.int64) for pair in edges for e in pair}
        return [numpy_helper.from_array(v, k) for k, v in made.items()]

    node = helper.make_node("If", ["c"], ["z"], then_branch=branch("then"), else_branch=branch("else"))
    held = [initializer("w", 20, 3), initializer("r", 20, 5), *sizes("w"), *sizes("r"),
            numpy_helper.from_array(np.array([0], np.int64), "zero")]  # fmt: skip
    path = save(
        tmp_path / "g.onnx", [node], [("x", 1, ["t", "b", 3]), ("c", 9, [])], [("z", 1, ["t", 1, "b", 5])], held
    )
    module, steps = load_onnx(path), torch.randn(7, 2, 3, generator=torch.Generator().manual_seed(0))
    assert sorted(p.numel() for p in module.parameters()) == [60, 100], "two copies of one layer"
    for condition in (torch.tensor(True), torch.tensor(False)):
        close(module(steps, condition), runtime(path, steps, condition)[0])
    layers = {x.name: x for x in trace(module, (steps, torch.tensor(True))).layers}
    assert {x.kind for x in layers.values()} == {"recurrent"} and len(layers) == 2
    seen = collect(module, tuple(layers.values()), [(steps, torch.tensor(True))])
    assert all(s.H is not None for s in seen.values()), "a fused kernel hid the weight"
    graph = float_onnx(module, (steps, torch.tensor(True)))
    coded = Coded(tuple(layers.values()), {n: Uniform(bits=8).encode(x, Statistics()) for n, x in layers.items()})
    for target in (OnnxRuntime(), Packed()):
        file = target.export(graph, tmp_path / f"coded{target.suffix}", coded, {})
        for condition in (torch.tensor(True), torch.tensor(False)):
            got, wanted = target.session(file)((steps, condition))[0], module(steps, condition).detach()
            assert 0 < float((torch.as_tensor(got) - wanted).abs().max()) < 0.05
    held = onnx.load(tmp_path / "coded.onnx").graph.initializer
    assert not any(t.data_type == TensorProto.FLOAT and np.prod(t.dims) >= 60 for t in held), (
        "the float weight is still there"
    )
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(0.5)
    back = written(module, tmp_path / "h.onnx")
    for condition in (torch.tensor(True), torch.tensor(False)):
        close(module(steps, condition), runtime(back, steps, condition)[0])


IN_A_BRANCH = [Uniform(bits=8), Uniform(bits=4, per=16), KMeans(clusters=16), SVD(rank=0.75),
               Stack(steps=(SVD(rank=0.75), Uniform(bits=8)))]  # fmt: skip


@pytest.mark.parametrize("technique", IN_A_BRANCH, ids=lambda t: type(t).__name__)
def test_layers_in_a_branch_are_coded_and_those_of_the_other_are_left(tmp_path: Path, technique: Any) -> None:
    def branch(name: str) -> onnx.GraphProto:
        n = helper.make_node
        nodes = [n("Gather", ["table", "i"], ["e"]), n("Transpose", ["e"], ["t"], perm=[0, 2, 1]),
                 n("Conv", ["t", "w"], ["h"], "conv"), n("MatMul", ["h", "m"], ["y"])]  # fmt: skip
        out = helper.make_tensor_value_info("y", 1, ["b", 16, 8])
        held = [initializer("table", 20, 16), initializer("w", 16, 16, 1), initializer("m", 32, 8)]
        return helper.make_graph(nodes, name, [], [out], held)

    node = helper.make_node("If", ["c"], ["z"], then_branch=branch("then"), else_branch=branch("else"))
    path = save(tmp_path / "if.onnx", [node], [("i", 7, ["b", 32]), ("c", 9, [])], [("z", 1, ["b", 16, 8])], [])
    module, data = load_onnx(path), (torch.arange(64).reshape(2, 32) % 20, torch.tensor(True))
    wanted = module(*data).detach()
    traced = trace(module, data)
    assert {why for _, why in traced.left} == {"the samples never get there"} and len(traced.left) == 3
    assert sorted(x.kind for x in traced.layers) == ["conv", "embedding", "linear"]
    codings = {x.name: technique.encode(x, Statistics()) for x in traced.layers}
    graph, coded = float_onnx(module, data), Coded(traced.layers, codings)
    other = load_onnx(path)
    with torch.no_grad():
        for x in traced.layers:
            other.get_parameter(x.name).copy_(x.from_matrix(codings[x.name].decode()))
        decoded = other(*data)
    for target in (OnnxRuntime(), Packed()):
        file = target.export(graph, tmp_path / f"coded{target.suffix}", coded, {})
        got = torch.as_tensor(target.session(file)(data)[0])
        assert float((got - decoded).abs().max()) < 0.02 * float(wanted.abs().max())


def test_unknown_operator_is_opaque_and_written_unchanged(tmp_path: Path) -> None:
    n = helper.make_node
    nodes = [n("MatMul", ["x", "w"], ["a"]), n("NonMaxSuppression", ["boxes", "scores", "k"], ["z"], "nms"),
             n("Cast", ["z"], ["c"], to=1), n("ReduceSum", ["c"], ["s"], keepdims=0),
             n("Add", ["a", "s"], ["y"])]  # fmt: skip
    given = [("x", 1, ["b", 4]), ("boxes", 1, [1, 3, 4]), ("scores", 1, [1, 1, 3])]
    count = numpy_helper.from_array(np.array([3], np.int64), "k")
    path = save(tmp_path / "o.onnx", nodes, given, [("y", 1, ["b", 2])], [initializer("w", 4, 2), count])
    module = load_onnx(path)
    assert [(op, why) for _, op, why in module.opaque] == [("NonMaxSuppression", "no native form")]
    data = (torch.ones(2, 4), torch.tensor([[[0.0, 0, 1, 1], [0, 0, 2, 2], [5, 5, 6, 6]]]), torch.ones(1, 1, 3))
    close(module(*data), runtime(path, *data)[0])
    module(*data).sum().backward()
    assert next(module.parameters()).grad is not None
    close(module(*data), runtime(written(module, tmp_path / "p.onnx"), *data)[0])


def test_branches_run_natively_and_hold_weights(tmp_path: Path) -> None:
    def branch(name: str) -> onnx.GraphProto:
        node = helper.make_node("MatMul", ["x", "w"], ["y"], "mm")  # both branches use the same names
        out = helper.make_tensor_value_info("y", 1, ["b", 2])
        return helper.make_graph([node], name, [], [out], [initializer("w", 4, 2)])

    node = helper.make_node("If", ["c"], ["z"], then_branch=branch("then"), else_branch=branch("else"))
    path = save(tmp_path / "if.onnx", [node], [("x", 1, ["b", 4]), ("c", 9, [])], [("z", 1, ["b", 2])], [])
    module = load_onnx(path)
    assert len(list(module.parameters())) == 2 and not module.opaque
    for condition in (torch.tensor(True), torch.tensor(False)):
        close(module(torch.ones(1, 4), condition), runtime(path, torch.ones(1, 4), condition)[0])
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(3)
    for condition in (torch.tensor(True), torch.tensor(False)):
        data = (torch.ones(1, 4), condition)
        close(module(*data), runtime(written(module, tmp_path / "of.onnx"), *data)[0])


def test_tracing_follows_the_branch_that_ran_last(tmp_path: Path) -> None:
    def branch(op: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(op, 1, ["b", 4])
        return helper.make_graph([helper.make_node(op, ["x"], [op])], op, [], [out])

    node = helper.make_node("If", ["c"], ["z"], then_branch=branch("Neg"), else_branch=branch("Exp"))
    path = save(tmp_path / "if.onnx", [node], [("x", 1, ["b", 4]), ("c", 9, [])], [("z", 1, ["b", 4])], [])
    module, data = load_onnx(path), (torch.ones(2, 4), torch.tensor(True))
    with pytest.raises(LessenError, match="run the module once before"):
        torch.export.export(module, data, strict=False)
    expected = module(*data)
    torch.testing.assert_close(torch.export.export(module, data, strict=False).module()(*data), expected)


def test_constants_may_be_edited(tmp_path: Path) -> None:
    value = numpy_helper.from_array(np.array([-1, 6], np.int64))
    weight = initializer("", 4, 3)
    n = helper.make_node
    nodes = [n("Constant", [], ["w"], value=weight), n("Constant", [], ["size"], value=value),
             n("MatMul", ["x", "w"], ["a"], "mm"), n("Reshape", ["a", "size"], ["y"])]  # fmt: skip
    path = save(tmp_path / "c.onnx", nodes, [("x", 1, ["b", 4])], [("y", 1, ["c", "d"])], [])
    module, data = load_onnx(path), torch.ones(4, 4)
    assert isinstance(module.get_submodule("mm"), nn.Linear) and module(data).shape == (2, 6)
    module.constants["size"] = np.array([-1, 4])
    module.mm.weight = nn.Parameter(module.mm.weight[:2].detach())
    assert module(data).shape == (2, 4)
    close(module(data), runtime(written(module, tmp_path / "d.onnx"), data)[0])


def test_half_precision(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(rng.standard_normal((3, 4)).astype(np.float16), "w")
    node = helper.make_node("Gemm", ["x", "w"], ["y"], "g", transB=1)
    module = load_onnx(save(tmp_path / "h.onnx", [node], [("x", 10, ["b", 4])], [("y", 10, ["b", 3])], [weight]))
    assert module(torch.ones(2, 4, dtype=torch.float16)).dtype is torch.float16
    again = module.to_onnx().graph.initializers["w"].const_value
    assert again is not None and np.array_equal(again.numpy(), numpy_helper.to_array(weight))


def test_merged_constants_are_given_apart(tmp_path: Path) -> None:
    n = helper.make_node
    nodes = [n("Gemm", ["x", "w", "b"], ["a"]), n("Gemm", ["a", "v", "b"], ["y"])]
    weights = [initializer("w", 3, 3), initializer("v", 3, 3), initializer("b", 3)]
    path = save(tmp_path / "m.onnx", nodes, [("x", 1, ["n", 3])], [("y", 1, ["n", 3])], weights)
    module = load_onnx(path)
    assert sum(p.dim() == 1 for p in module.parameters()) == 2
    close(module(torch.ones(2, 3)), runtime(written(module, tmp_path / "n.onnx"), torch.ones(2, 3))[0])


def test_wrong_inputs(cnn: Path) -> None:
    with pytest.raises(LessenError, match="0 inputs given, the model takes 1"):
        load_onnx(cnn)()
    with pytest.raises(LessenError, match=r"node 'c' \(Conv\): Conv fails"):
        load_onnx(cnn)(torch.ones(1, 4, 16, 16))


def test_not_a_model(tmp_path: Path, cnn: Path) -> None:
    cases = ((b"", "the file is empty"), (b"PK\3\4" + bytes(100), "not an ONNX"), (b"\x08\x09", "no graph"))
    for content, match in cases:
        (tmp_path / "bad.onnx").write_bytes(content)
        with pytest.raises(LessenError, match=match):
            load_onnx(tmp_path / "bad.onnx")
    with pytest.raises(LessenError, match="no such file"):
        load_onnx(tmp_path / "none.onnx")
    with pytest.raises(LessenError, match="not a file"):
        load_onnx(tmp_path)


def test_lying_and_unsound_tensors(tmp_path: Path, cnn: Path) -> None:
    model = onnx.load(cnn)
    model.graph.initializer[0].dims[0] = 2**40
    onnx.save(model, tmp_path / "lie.onnx")
    with pytest.raises(LessenError, match=r"tensor 'c\.weight': shape .* needs \d+ values or bytes, the file has 864"):
        load_onnx(tmp_path / "lie.onnx")
    model = onnx.load(cnn)
    weights = numpy_helper.to_array(model.graph.initializer[0]).copy()
    weights[1, 2, 0, 0] = np.nan
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights, "c.weight"))
    onnx.save(model, tmp_path / "nan.onnx")
    with pytest.raises(LessenError, match=r"tensor 'c\.weight' holds NaN"):
        load_onnx(tmp_path / "nan.onnx")


def external(path: Path, location: str, offset: int = 0, length: int = 864) -> Path:
    """The CNN with its first weight outside the file."""
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    target = path.parent / "inner" / "model.onnx"
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(model.SerializeToString())
    return target


def test_external_data(cnn: Path) -> None:
    data = numpy_helper.to_array(onnx.load(cnn).graph.initializer[0])
    path = external(cnn, "w.bin", 64)
    (path.parent / "w.bin").write_bytes(bytes(64) + data.tobytes())
    close(load_onnx(path)(x()), runtime(cnn, x())[0])
    for place, match in ((("w.bin", 65), "doesn't fit"), (("w.bin", 64, 860), "doesn't fit"),
                         (("w.bin", -8), "doesn't fit"), (("no.bin",), "is missing"), (("../w.bin",), "outside"),
                         (("/etc/passwd",), "outside")):  # fmt: skip
        with pytest.raises(LessenError, match=match):
            load_onnx(external(cnn, *place))
    (path.parent.parent / "secret").write_bytes(data.tobytes())
    (path.parent / "link.bin").symlink_to(path.parent.parent / "secret")
    with pytest.raises(LessenError, match="is a link"):
        load_onnx(external(cnn, "link.bin"))


@pytest.mark.parametrize("seed", range(150))
def test_damaged_files_never_raise_anything_else(cnn: Path, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    data = bytearray(cnn.read_bytes())
    if seed % 3 == 0:
        data = data[: chance.randrange(len(data))]
    for _ in range(0 if seed % 3 == 0 else 1 + seed % 5):  # mostly structure: the weights' bytes are at the end
        data[chance.randrange(len(data) if seed % 2 else 400)] = chance.randrange(256)
    (tmp_path / "damaged.onnx").write_bytes(data)
    try:
        module = load_onnx(tmp_path / "damaged.onnx")
        module(x())
        module.to_onnx()
    except LessenError as error:
        assert str(error)


def test_a_network_with_branches_is_not_made_one_branch(tmp_path: Path) -> None:
    """Removing channels by way of an exported graph would lose the branch that the samples don't take."""

    def branch(name: str) -> onnx.GraphProto:
        n = helper.make_node
        nodes = [n("MatMul", ["x", "a"], ["h"]), n("Reshape", ["h", "s"], ["r"]), n("Relu", ["r"], ["q"]),
                 n("MatMul", ["q", "w"], ["y"])]  # fmt: skip
        size = numpy_helper.from_array(np.array([-1, 8], np.int64), "s")
        out = helper.make_tensor_value_info("y", 1, ["b", 2])
        return helper.make_graph(nodes, name, [], [out], [initializer("a", 4, 8), initializer("w", 8, 2), size])

    node = helper.make_node("If", ["c"], ["z"], then_branch=branch("then"), else_branch=branch("else"))
    path = save(tmp_path / "if.onnx", [node], [("x", 1, ["b", 4]), ("c", 9, [])], [("z", 1, ["b", 2])], [])
    module, data = load_onnx(path), (torch.randn(3, 4), torch.tensor(True))
    assert module.has_branches
    module(*data)
    grouping = find_groups(module, data)
    group = next((g for g in grouping.groups if g.size == 8), None)
    if group is None:
        return  # nothing can be removed: nothing can be lost
    try:
        made = shrink(module, {group.name: [1, 2]}, data, grouping)
    except LessenError as error:
        assert "branch" in str(error)
        return
    assert isinstance(made, OnnxModule) and made.has_branches
