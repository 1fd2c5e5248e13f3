"""Where codes are made: as early as a kernel does it by itself, and kept through what only moves them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from lessen.targets import Coded, OnnxRuntime, OpenVINO, float_onnx
from lessen.targets.placement import Placement
from lessen.targets.qdq import activations
from lessen.targets.ranges import MIDDLE, Range
from targets.small_nets import Block, built, exported, grid, layers_of, noise, seeded, sqnr

X = noise(4, 3, 16, 16)


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.line = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8 * 64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.line(nn.functional.max_pool2d(self.conv(x).relu(), 2).flatten(1))


class Joined(nn.Module):
    def __init__(self, seen: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 1), nn.Conv2d(16, 4, 1)
        self.seen = seen

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        both = self.a(x).relu(), self.b(x).relu()
        made = self.last(torch.cat(both, 1))
        return (made, both[1].abs()) if self.seen else made


class Averaged(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.line = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.line(self.conv(x).relu().mean((2, 3)))


def placed(net: nn.Module, target: OnnxRuntime | OpenVINO) -> tuple[ir.Model, Placement]:
    network = seeded(net)
    graph, layers = float_onnx(network, (X,)), layers_of(network, X)
    everything = Coded(layers, {}, {x.name: "int8" for x in layers})
    return graph, activations(graph, everything, target.rules)


def out_of(graph: ir.Model, kind: str) -> list[str]:
    return [str(n.outputs[0].name) for n in graph.graph if n.op_type == kind]


@pytest.mark.parametrize("target", [OnnxRuntime(), OpenVINO()], ids=lambda t: t.name)
def test_a_pooling_between_two_layers_sees_codes_only(target) -> None:
    graph, placement = placed(Pooled(), target)
    way = [*out_of(graph, "Relu"), *out_of(graph, "MaxPool"), *out_of(graph, "Reshape"), *out_of(graph, "Flatten")]
    assert len(way) == 3 and set(way) <= set(placement.tensors)
    assert len({placement.find(name) for name in way}) == 1


@pytest.mark.parametrize("target", [OnnxRuntime(), OpenVINO()], ids=lambda t: t.name)
def test_what_is_laid_side_by_side_shares_one_scale(target) -> None:
    graph, placement = placed(Joined(), target)
    way = [*out_of(graph, "Relu"), *out_of(graph, "Concat")]
    assert set(way) <= set(placement.tensors) and len({placement.find(name) for name in way}) == 1


def test_what_is_also_read_as_floats_is_rounded_behind_the_concatenation_only() -> None:
    graph, placement = placed(Joined(seen=True), OpenVINO())
    assert not set(out_of(graph, "Relu")) & set(placement.tensors)
    assert set(out_of(graph, "Concat")) <= set(placement.tensors)


def test_openvino_averages_codes() -> None:
    graph, placement = placed(Averaged(), OpenVINO())
    assert {*out_of(graph, "Relu"), *out_of(graph, "ReduceMean")} <= set(placement.tensors)


class Excited(nn.Module):
    """Squeeze-and-excitation of a convolution without a bias, as PaddleOCR's necks have it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.squeezed = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 24, 1, bias=False)
        self.down, self.up, self.last = nn.Conv2d(24, 6, 1), nn.Conv2d(6, 24, 1), nn.Conv2d(24, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.squeezed(self.first(x))
        factors = nn.functional.hardsigmoid(self.up(self.down(y.mean((2, 3), keepdim=True)).relu()))
        return self.last(y + y * factors)


@pytest.mark.parametrize("target", [OnnxRuntime(), OpenVINO()], ids=lambda t: t.name)
def test_a_convolution_without_a_bias_may_be_multiplied_by_what_is_made_of_it(target, tmp_path) -> None:
    network = built(Excited)
    graph, layers = float_onnx(network, (X,)), layers_of(network, X)
    coded = Coded(layers, {x.name: grid(x) for x in layers}, {})
    path = target.export(graph, tmp_path / "m.onnx", coded, target.ranges(graph, coded, [(X,)]))
    assert sqnr(network(X).detach(), target.session(path)((X,))[0]) > 25  # 3 dB where OpenVINO fuses them


class Signed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.line = nn.Conv2d(3, 8, 3), nn.Linear(8 * 49, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.line(nn.functional.max_pool2d(self.conv(x), 2).flatten(1))


@pytest.mark.parametrize(("target", "codes"), [(OnnxRuntime(), {np.uint8}), (OpenVINO(), {np.int8})])
def test_values_of_both_signs_get_the_codes_that_the_runtime_is_quick_with(target, codes, tmp_path) -> None:
    network = seeded(Signed())
    graph, layers = float_onnx(network, (X,)), layers_of(network, X)
    coded = Coded(layers, {x.name: grid(x) for x in layers}, {})
    ranges = target.ranges(graph, coded, [(noise(32, 3, 16, 16),)])
    path = target.export(graph, tmp_path / "m.onnx", coded, ranges)
    made = ir.load(path)
    zeros = [n.inputs[2].const_value.numpy().dtype.type for n in made.graph if n.op_type == "QuantizeLinear"]
    assert set(zeros) == codes
    got = target.session(path)((X,))[0]
    assert sqnr(network(X).detach(), got) > 25


def test_a_centered_range_has_its_zero_in_the_middle() -> None:
    r = Range(-1.0, 3.0).centered
    assert r.zero_point == MIDDLE and r.high == 3.0 and r.scale == pytest.approx(3 / 127)
    assert Range(0.0, 3.0).centered == Range(0.0, 3.0)


def test_queries_and_keys_are_codes_without_an_offset_where_integers_made_them(tmp_path):
    tokens = torch.randint(0, 50, (8, 12), generator=torch.Generator().manual_seed(0))
    module, layers, graph = exported(Block, tokens)
    codings = {n.name: grid(n) for n in layers}
    scores = {str(v.name) for n in graph.graph if n.op_type == "Softmax" for v in _behind_softmax(n).inputs if v}
    assert len(scores) == 2
    for target, wanted in ((OpenVINO(), scores), (OnnxRuntime(), set())):
        coded = Coded(layers, codings)
        placement = activations(graph, coded, target.rules)
        assert placement.centered == scores & set(placement.tensors) == wanted
    without = {n: c for n, c in codings.items() if not n.startswith("qkv")}
    assert not activations(graph, Coded(layers, without), OpenVINO().rules).centered
    ranges = OpenVINO().ranges(graph, coded, [(tokens,)])
    path = OpenVINO().export(graph, tmp_path / "m.onnx", coded, ranges)
    made = ir.load(path).graph
    zeros = [n.inputs[2] for n in made if n.op_type == "QuantizeLinear" and str(n.inputs[0].name) in scores]
    assert [z.const_value.dtype for z in zeros] == [ir.DataType.INT8] * 2
    assert sqnr(module(tokens).detach(), OpenVINO().session(path)((tokens,))[0]) > 28


def _behind_softmax(softmax: ir.Node) -> ir.Node:
    node = softmax
    while node.op_type != "MatMul":
        node = next(v.producer() for v in node.inputs if v is not None and v.producer() is not None)
    return node
