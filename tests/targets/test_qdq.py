from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
import torch

from lessen.codings import Codebook, Dense, Grid, LowRank, Sparse
from lessen.models import Layer
from lessen.targets import Coded, OnnxRuntime, OpenVINO, float_onnx, qdq
from lessen.targets.placement import Rules
from lessen.targets.qdq import activations, quantized
from lessen.targets.ranges import Range
from targets.small_nets import Block, Gated, Recurrent, Residual, exported, grid, layers_of, noise, seeded, sqnr

TARGETS = [OnnxRuntime(), OpenVINO()]


def tokens(n: int = 16, seed: int = 0):
    return torch.randint(0, 50, (n, 12), generator=torch.Generator().manual_seed(seed))


PICTURES = noise(16, 3, 32, 32)
CASES = {"residual": (Residual, PICTURES), "gated": (Gated, PICTURES), "block": (Block, tokens())}


def written(target, net, x, tmp_path, codings=None, execution=None):
    module, layers, graph = exported(net, x)
    coded = Coded(layers, {n.name: grid(n) for n in layers} if codings is None else codings(layers), execution or {})
    ranges = target.ranges(graph, coded, [(x[:8],), (x[8:],)])
    return module, layers, coded, target.export(graph, tmp_path / "m.onnx", coded, ranges)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("case", CASES)
def test_int8_runs_in_integers_and_stays_close(target, case, tmp_path):
    net, x = CASES[case]
    module, layers, _, path = written(target, net, x, tmp_path)
    got = target.session(path)((x,))[0]
    assert sqnr(module(x).detach(), got) > 28
    kernels = target.verify(path)
    linear = [n for n in layers if n.kind in ("conv", "linear")]
    assert len(kernels.integer) >= len(linear)
    transposed = int(target.name == "onnxruntime")  # it has no integer ConvTranspose
    allowed = {"residual": 0, "gated": transposed, "block": 2}[case]  # the two products of attention
    assert len(kernels.floating) <= allowed


def test_size_in_the_file_is_what_nbytes_says(tmp_path):
    target = OnnxRuntime()
    _, layers, coded, path = written(target, *CASES["residual"], tmp_path)
    model = ir.load(path)
    held = Counter()
    for name, value in model.graph.initializers.items():
        for layer in layers:
            if name.startswith(layer.name):
                held[layer.name] += value.const_value.nbytes
    for n in layers:  # what the nodes take is in nbytes too
        assert held[n.name] < target.nbytes(n, coded.codings[n.name]) < held[n.name] + 700


def test_weights_in_the_file_decode_to_the_coding_exactly(tmp_path):
    _, layers, coded, path = written(OnnxRuntime(), *CASES["residual"], tmp_path)
    init = ir.load(path).graph.initializers
    for layer in layers:
        codes = torch.from_numpy(np.array(init[f"{layer.name}_int8"].const_value.numpy()))
        if layer.kind == "linear" and codes.shape != layer.weight.shape:
            codes = codes.T
        assert torch.equal(layer.to_matrix(codes), coded.codings[layer.name].codes)


def test_pairs_a_convolution_has_one_behind_it_only_where_the_runtime_needs_it():
    _, layers, graph = exported(Gated, noise(2, 3, 32, 32))
    coded = Coded(layers, {n.name: grid(n) for n in layers})
    behind = activations(graph, coded, Rules(True))
    bare = activations(graph, coded, Rules(False))
    assert set(bare.tensors) < set(behind.tensors)
    assert graph.graph.inputs[0].name in bare.tensors


def test_a_pooling_keeps_the_scale():
    with torch.random.fork_rng():
        first, second = torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 4, 1)
    module = seeded(torch.nn.Sequential(first, torch.nn.ReLU(), torch.nn.MaxPool2d(2), second, torch.nn.Flatten()))
    x = noise(2, 3, 32, 32)
    graph, layers = float_onnx(module, (x,)), layers_of(module, x)
    coded = Coded(layers, {n.name: grid(n) for n in layers})
    placement = activations(graph, coded, Rules())
    pool = next(n for n in graph.graph if n.op_type == "MaxPool")
    assert placement.find(pool.inputs[0].name) == placement.find(pool.outputs[0].name)
    ranges = {n: Range(0.0, float(i + 1)) for i, n in enumerate(placement.tensors)}
    file = quantized(graph, coded, ranges, Rules())
    scales = {n.name: n.inputs[1].name for n in file.graph if n.op_type == "QuantizeLinear"}
    assert scales[f"{pool.inputs[0].name}_quantize"] == scales[f"{pool.outputs[0].name}_quantize"]


def test_the_float_graph_is_left_alone():
    _, layers, graph = exported(Residual, noise(2, 3, 32, 32))
    before = [n.op_type for n in graph.graph], sorted(graph.graph.initializers)
    coded = Coded(layers, {n.name: grid(n) for n in layers})
    quantized(graph, coded, {n: Range(-1, 1) for n in activations(graph, coded, Rules()).tensors}, Rules())
    assert before == ([n.op_type for n in graph.graph], sorted(graph.graph.initializers))


def lowrank(layer: Layer, rank: int, half) -> LowRank:
    u, s, v = torch.linalg.svd(layer.matrix, full_matrices=False)
    return LowRank(half((u[:, :rank] * s[:rank]).contiguous()), half(v[:rank].contiguous()))


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("half", [Dense, lambda m: grid(Layer("half", "linear", m))], ids=["float", "int8"])
@pytest.mark.parametrize("case", ["residual", "block"])
def test_low_rank_is_two_layers(target, half, case, tmp_path):
    net, x = CASES[case]

    def codings(layers):
        wide = [n for n in layers if n.kind in ("linear", "conv") and n.groups == 1]
        return {n.name: lowrank(n, min(n.shape) - 2, half) for n in wide}

    module, layers, coded, path = written(target, net, x, tmp_path, codings)
    with torch.no_grad():
        for layer in layers:
            if layer.name in coded.codings:
                dict(module.named_parameters())[layer.name].copy_(layer.from_matrix(coded.codings[layer.name].decode()))
    got = target.session(path)((x,))[0]
    assert sqnr(module(x).detach(), got) > (60 if half is Dense else 25)
    kernels = target.verify(path)
    halves = len(coded.codings) * 2
    assert len(kernels.floating if half is Dense else kernels.integer) >= halves


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_every_coding_runs_in_every_way(target, tmp_path):
    x = CASES["gated"][1]

    def codings(layers):
        made = {}
        for i, n in enumerate(layers):
            m = n.matrix
            mask = m.abs() > m.abs().median()
            table = torch.linspace(float(m.min()), float(m.max()), 256)[None]
            index = ((m - table[0, 0]) / (table[0, 1] - table[0, 0])).round().clamp(0, 255).to(torch.uint8)
            made[n.name] = [Dense(m), Dense(m.half()), Sparse(mask, m[mask]), Codebook(index, table), grid(n)][i % 5]
        return made

    module, layers, coded, path = written(target, Gated, x, tmp_path, codings)
    with torch.no_grad():
        for layer in layers:
            dict(module.named_parameters())[layer.name].copy_(layer.from_matrix(coded.codings[layer.name].decode()))
    assert sqnr(module(x).detach(), target.session(path)((x,))[0]) > 28


def test_asymmetric_and_grouped_grids_are_held_too(tmp_path):
    x = CASES["residual"][1]

    def codings(layers):
        made = {}
        for n in layers:
            low, high = n.matrix.amin(1, keepdim=True), n.matrix.amax(1, keepdim=True)
            scale = (high - low) / 15
            zero = (-8 - low / scale).round()
            codes = (n.matrix / scale + zero).round().clamp(-8, 7)
            made[n.name] = Grid(codes.to(torch.int8), scale, zero.to(torch.int16), 4)
        return made

    module, layers, coded, path = written(OnnxRuntime(), Residual, x, tmp_path, codings)
    with torch.no_grad():
        for layer in layers:
            dict(module.named_parameters())[layer.name].copy_(layer.from_matrix(coded.codings[layer.name].decode()))
    assert sqnr(module(x).detach(), OnnxRuntime().session(path)((x,))[0]) > 25


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_weight_only_is_float_arithmetic_on_small_weights(target, tmp_path):
    net, x = CASES["block"]
    names = [n.name for n in exported(net, x)[1]]
    module, layers, coded, path = written(target, net, x, tmp_path, execution=dict.fromkeys(names, "weight"))
    with torch.no_grad():
        for layer in layers:
            dict(module.named_parameters())[layer.name].copy_(layer.from_matrix(coded.codings[layer.name].decode()))
    assert sqnr(module(x).detach(), target.session(path)((x,))[0]) > 35
    assert not any(n.op_type == "QuantizeLinear" for n in ir.load(path).graph)


def test_a_large_embedding_is_picked_as_integers(tmp_path, monkeypatch):
    monkeypatch.setattr(qdq, "TABLE", 1)
    _, _, _, path = written(OnnxRuntime(), *CASES["block"], tmp_path)
    graph = ir.load(path).graph
    gather = next(n for n in graph if n.op_type == "Gather" and n.inputs[0].name == "embedding.weight_int8")
    assert gather.inputs[0].dtype == ir.DataType.INT8
    assert "embedding.weight" not in graph.initializers


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_a_small_embedding_is_one_operator_wherever_it_is_read(target, tmp_path):
    """A decoder reads it at every step: made float at each, g2p's file was 6 % slower than the float file."""
    net, x = CASES["block"]
    names = [n.name for n in exported(net, x)[1]]
    *_, path = written(target, net, x, tmp_path, execution=dict.fromkeys(names, "weight"))
    graph = ir.load(path).graph
    codes = next(v for v in graph.initializers.values() if "embedding.weight" in v.name and v.dtype == ir.DataType.INT8)
    assert codes.const_value.size == 50 * 32
    gather = next(n for n in graph if n.op_type == "Gather" and n.inputs[1] in graph.inputs)
    assert [use.node.op_type for use in gather.outputs[0].uses()] != ["Cast"]
    assert "embedding.weight" not in graph.initializers


def test_a_folded_batch_norm_scales_the_grid(tmp_path):
    module = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, bias=False), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 1)
    )
    seeded(module)
    module[1].running_var.fill_(3.0)
    x = noise(8, 3, 16, 16)
    layers = layers_of(module, x)
    coded = Coded(layers, {n.name: grid(n) for n in layers})
    target, graph = OpenVINO(), float_onnx(module, (x,))
    path = target.export(graph, tmp_path / "m.onnx", coded, target.ranges(graph, coded, [(x,)]))
    assert sqnr(module(x).detach(), target.session(path)((x,))[0]) > 30


def test_same_bytes_twice(tmp_path, global_seeds_untouched):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    a = written(OnnxRuntime(), *CASES["residual"], tmp_path / "a")[3]
    b = written(OnnxRuntime(), *CASES["residual"], tmp_path / "b")[3]
    assert a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_recurrent_weights_are_coded_and_decoded_at_loading(target, tmp_path):
    x = noise(16, 5, 8)
    module, layers, coded, path = written(target, Recurrent, x, tmp_path)
    assert sqnr(module(x).detach(), target.session(path)((x,))[0]) > 28
    held = {n: v.const_value.nbytes for n, v in ir.load(path).graph.initializers.items()}
    for layer in layers:
        own = sum(size for name, size in held.items() if name.startswith(layer.name))
        assert own < target.nbytes(layer, coded.codings[layer.name]) < own + 700
        assert own < layer.weight.numel() * 2


class Twice(torch.nn.Module):
    """One head on two maps, as detectors have it: its bias is rounded in units of either input's scale."""

    def __init__(self):
        super().__init__()
        self.stem, self.down = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 8, 3, 2, 1)
        self.head = torch.nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x):
        large = torch.relu(self.stem(x))
        small = torch.relu(self.down(large))
        return self.head(large).mean((2, 3)) + self.head(small).mean((2, 3))


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_a_layer_that_is_used_twice_has_two_biases(target, tmp_path):
    module, _, _, path = written(target, Twice, PICTURES, tmp_path)
    got = target.session(path)((PICTURES,))[0]
    assert sqnr(module(PICTURES).detach(), got) > 28
