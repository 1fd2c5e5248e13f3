"""Every coding, as nodes of a file: decoded to the bit by both runtimes, in as many bytes as was said."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import nn

from lessen.codings import Codebook, Dense, Grid, LowRank, ScaledCodebook
from lessen.models import Layer
from lessen.models.onnx_import import load_onnx
from lessen.quantize import NormalFloat
from lessen.statistics import Statistics
from lessen.targets import Coded, OnnxRuntime, OpenVINO, float_onnx
from lessen.targets.chain import Chain
from lessen.targets.decode import decoded, matrix_bytes
from lessen.targets.graph import ort_session, serialized
from lessen.targets.packing import WORDS, code_bytes, is_packed, packed
from targets.small_nets import Gated, Recurrent, Residual, exported, grid, layers_of, noise, seeded, sqnr

TARGETS = [OnnxRuntime(), OpenVINO()]
ROWS, COLUMNS = 61, 96  # 5856 codes: not a multiple of ten


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def a_grid(bits, groups=1, rows=ROWS, asymmetric=False):
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1)
    codes = torch.randint(low, high, (ROWS, COLUMNS), generator=rng())
    scale = torch.rand(rows, groups, generator=rng(1)) + 0.1
    zero = torch.randint(low, high, (rows, groups), generator=rng(2)) if asymmetric else torch.zeros(rows, groups)
    held = torch.int16 if bits > 8 else torch.int8
    return Grid(codes.to(held), scale, zero.to(held), bits)


def a_book(k, rows=1):
    indices = torch.randint(k, (ROWS, COLUMNS), generator=rng()).to(torch.uint8)
    return Codebook(indices, torch.randn(rows, k, generator=rng(1)))


def a_scaled(k, groups=1, rows=ROWS):
    return ScaledCodebook(a_book(k).indices, a_book(k).centroids, torch.rand(rows, groups, generator=rng(2)) + 0.1)


CODINGS = {
    **{f"grid{b}": a_grid(b) for b in range(1, 9)},
    "tensor4": a_grid(4, rows=1), "groups4": a_grid(4, 3), "asymmetric3": a_grid(3, 4, asymmetric=True),
    "wide12": a_grid(12, asymmetric=True), "book2": a_book(2), "book16": a_book(16), "book200": a_book(200),
    "rows8": a_book(8, ROWS),
    "scaled16": a_scaled(16), "scaled15 groups": a_scaled(15, 3), "scaled200 tensor": a_scaled(200, rows=1),
    "lowrank": LowRank(Dense(torch.eye(ROWS)), a_grid(4)),
}  # fmt: skip


def holder(coding, folded):
    """A network whose output is the decoded weight plus zero times its input."""
    zero = ir.Value(name="x", shape=ir.Shape([1, 1]), type=ir.TensorType(ir.DataType.FLOAT))
    add = ir.node("Add", [zero, zero], name="add")
    graph = ir.Graph([zero], add.outputs, nodes=[add], opset_imports={"": 18}, name="g")
    chain = Chain(graph, "w", folded)
    add.replace_input_with(1, decoded(chain, coding))
    chain.place()
    add.outputs[0].name, add.outputs[0].type = "y", ir.TensorType(ir.DataType.FLOAT)
    add.outputs[0].shape = ir.Shape(coding.shape)
    return ir.Model(graph, ir_version=8)


@pytest.mark.parametrize("bits", WORDS)
def test_codes_come_back_out_of_their_words(bits):
    word, per = WORDS[bits]
    codes = np.random.default_rng(0).integers(0, 1 << bits, 997)
    words = packed(codes, bits)
    assert words.dtype == word and len(words) == -(-997 // per) and (words >= 0).all()
    back = (words.astype(np.int64)[None] >> (bits * np.arange(per))[:, None]) & ((1 << bits) - 1)
    assert np.array_equal(back.reshape(-1)[:997], codes)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("name", CODINGS)
def test_decoded_to_the_bit(target, name, tmp_path):
    coding = CODINGS[name]
    for folded in (True, False):
        model = holder(coding, folded)
        path = Path(tmp_path / "w.onnx")
        path.write_bytes(serialized(model))
        assert torch.equal(target.session(path)((torch.zeros(1, 1),))[0], coding.decode())
        kept = sum(v.const_value.nbytes for n, v in model.graph.initializers.items() if n.startswith("w"))
        assert kept <= matrix_bytes(coding) <= kept + 1500


def test_small_or_full_codes_are_not_packed():
    assert not is_packed(500, 4) and not is_packed(10**6, 7) and not is_packed(10**6, 8)
    assert code_bytes(10**6, 3) < 410_000 and code_bytes(10**6, 7) == 10**6 and code_bytes(10**6, 12) == 2 * 10**6


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("bits", [2, 3, 4, 6])
def test_few_bits_run_in_8_bit_kernels(target, bits, tmp_path):
    x = noise(8, 3, 32, 32)
    module, layers, graph = exported(Residual, x)
    codings = {n.name: grid(n, bits) for n in layers}
    coded = Coded(layers, codings, dict.fromkeys(codings, "int8"))
    path = target.export(graph, tmp_path / "m.onnx", coded, target.ranges(graph, coded, [(x,)]))
    assert len(target.verify(path).integer) == 5
    with torch.no_grad():
        for n in layers:
            module.get_parameter(n.name).copy_(n.from_matrix(codings[n.name].decode()))
    assert sqnr(module(x).detach(), target.session(path)((x,))[0]) > (28 if bits > 2 else 18)


def of_every_kind(layers):
    """Codebooks of one table and of one a row, grids in groups, low rank where it can't be two layers."""
    made = {}
    for i, n in enumerate(layers):
        m = n.matrix
        index = torch.randint(4, m.shape, generator=rng(i)).to(torch.uint8)
        groups = max(g for g in (1, 2, 4) if m.shape[1] % g == 0)
        codes = torch.randint(-2, 2, m.shape, generator=rng(i)).to(torch.int8)
        scale = torch.rand(len(m), groups, generator=rng(i)) * 0.1
        made[n.name] = [
            Codebook(index, torch.randn(1, 4, generator=rng(i)) * 0.1),
            Codebook(index, torch.randn(len(m), 4, generator=rng(i)) * 0.1),
            Grid(codes, scale, torch.ones_like(scale, dtype=torch.int8), 2),
        ][i % 3]
    return made


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("turn", range(3))
def test_layouts_of_convolutions_and_transposed_ones(target, turn, tmp_path):
    x = noise(4, 3, 32, 32)
    module, layers, graph = exported(Gated, x)
    codings = of_every_kind([*layers[turn:], *layers[:turn]])
    coded = Coded(layers, codings, dict.fromkeys(codings, "weight"))
    path = target.export(graph, tmp_path / "m.onnx", coded, {})
    with torch.no_grad():
        for n in layers:
            module.get_parameter(n.name).copy_(n.from_matrix(codings[n.name].decode()))
    assert sqnr(module(x).detach(), target.session(path)((x,))[0]) > 40  # OpenVINO rounds inputs of matrix products


class Tokens(nn.Module):
    """An embedding, recurrent layers in both directions, linear layers of two and three dimensions."""

    def __init__(self):
        super().__init__()
        self.embedding, self.lstm = nn.Embedding(600, 64), nn.LSTM(64, 64, bidirectional=True, batch_first=True)
        self.gru, self.wide = nn.GRU(128, 64, batch_first=True), nn.Linear(64, 256)
        self.head = nn.Linear(256, 128)

    def forward(self, tokens):
        return self.head(torch.relu(self.wide(self.gru(self.lstm(self.embedding(tokens))[0])[0])).mean(1))


@pytest.fixture(scope="module")
def tokens():
    with torch.random.fork_rng():
        module = seeded(Tokens())
    x = torch.randint(0, 600, (8, 12), generator=rng())
    return module, x, layers_of(module, x), float_onnx(module, (x,))


def grouped(layer, bits, size=32):
    split = layer.matrix.reshape(len(layer.matrix), -1, size)
    scale = (split.abs().amax(2) / (2 ** (bits - 1) - 0.5)).clamp_min(1e-9)
    codes = (split / scale[..., None]).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return Grid(codes.reshape(layer.shape).to(torch.int8), scale, torch.zeros(scale.shape, dtype=torch.int8), bits)


def booked(layer, rows):
    matrix = layer.matrix
    table = torch.linspace(-1, 1, 16)[None] * (matrix.abs().amax(1, keepdim=True) if rows else matrix.abs().max())
    return Codebook((matrix[..., None] - table[:, None]).abs().argmin(2).to(torch.uint8), table)


WAYS = {
    **{f"channel{b}": lambda n, b=b: grid(n, b) for b in (2, 3, 4, 5, 6, 8)},
    **{f"group{b}": lambda n, b=b: grouped(n, b) for b in (3, 4, 8)},
    "nf4": lambda n: NormalFloat(4, 32, feedback=False).encode(n, Statistics()),
    "nf4 channel": lambda n: NormalFloat(4, "channel", feedback=False).encode(n, Statistics()),
    "book": lambda n: booked(n, False), "books": lambda n: booked(n, True), "float": lambda n: Dense(n.matrix),
}  # fmt: skip


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("way", WAYS)
def test_the_file_is_as_large_as_was_said_and_computes_what_was_said(target, way, tokens, tmp_path):
    module, x, layers, graph = tokens
    codings = {n.name: WAYS[way](n) for n in layers}
    assert len(codings) == 9
    path = target.export(graph, tmp_path / "m.onnx", Coded(layers, codings, dict.fromkeys(codings, "weight")), {})
    base = target.export(graph, tmp_path / "base.onnx", None, {}).stat().st_size
    saved = sum(4 * n.weight.numel() - target.nbytes(n, codings[n.name]) for n in layers)
    assert path.stat().st_size == pytest.approx(base - saved, rel=0.015, abs=1500)
    twin = {n.name: n.from_matrix(codings[n.name].decode()) for n in layers}
    wanted = torch.func.functional_call(module, twin, (x,)).detach()
    got = target.session(path)((x,))[0]
    assert sqnr(wanted, got) > 35  # matrix products of coded weights round their inputs to 8 bits as they go


def test_groups_of_four_bits_have_their_own_operator(tokens, tmp_path):
    _, _, layers, graph = tokens
    wide = next(n for n in layers if n.name == "wide.weight")
    codings = {wide.name: grouped(wide, 4)}
    path = OnnxRuntime().export(graph, tmp_path / "m.onnx", Coded(layers, codings, {wide.name: "weight"}), {})
    kinds = [n.op_type for n in ir.load(path).graph]
    assert "MatMulNBits" in kinds
    ort_session(str(path))


def test_groups_of_four_bits_stay_four_bits_in_openvino(tokens, tmp_path):
    _, _, layers, graph = tokens
    wide = next(n for n in layers if n.name == "wide.weight")
    path = tmp_path / "m.onnx"
    OpenVINO().export(graph, path, Coded(layers, {wide.name: grouped(wide, 4)}, {wide.name: "weight"}), {})
    weights = [
        node.input_value(1).get_element_type().get_type_name()
        for node in OpenVINO().compiled(path).get_runtime_model().get_ops()
        if node.get_rt_info()["layerType"].astype(str) == "FullyConnected"
    ]
    assert "u4" in weights


def test_recurrent_weights_of_an_imported_network(tmp_path):
    module, _, graph = exported(Recurrent, noise(2, 5, 8))
    (tmp_path / "float.onnx").write_bytes(serialized(graph))
    network, x = load_onnx(tmp_path / "float.onnx"), noise(6, 5, 8)
    again = float_onnx(network, (x,))
    layers = tuple(Layer(k, "recurrent", p.detach()) for k, p in network.named_parameters() if "weight_" in k)
    assert len(layers) == 2  # rows in the order of ONNX already
    codings = {n.name: grid(n, 3) for n in layers}
    path = OnnxRuntime().export(again, tmp_path / "m.onnx", Coded(layers, codings), {})
    twin = {n.name: n.from_matrix(codings[n.name].decode()) for n in layers}
    wanted = torch.func.functional_call(network, twin, (x,)).detach()
    assert sqnr(wanted, module(x).detach()) < 40
    for target in TARGETS:
        assert sqnr(wanted, target.session(path)((x,))[0]) > 80
