"""Inputs rounded to ranges found while the network runs: in integers, in both runtimes, without calibration."""

import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from lessen.models import Layer
from lessen.quantize.dynamic import rounded_at_run_time
from lessen.targets import Coded, LayerCosts, OnnxRuntime, OpenVINO, Target
from lessen.targets.qdq import activations
from targets.small_nets import Block, Residual, exported, grid, layers_of, noise, sqnr

TARGETS = [OnnxRuntime(), OpenVINO()]


class Rows(nn.Module):
    """Linear layers on tokens [samples, tokens, 32]; the first two read the same ones."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.out = nn.Linear(32, 48), nn.Linear(32, 48, bias=False), nn.Linear(48, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.left(x)) * self.right(x))


class Flat(nn.Module):
    """A Gemm with a bias, whose product is the output."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)


def loud(*shape: int) -> Tensor:
    """Rows from a hundredth to a hundred times the usual size, one of them silent."""
    x = noise(*shape) * torch.logspace(-2, 2, shape[-2])[:, None]
    x[..., 0, :] = 0
    return x


def coded(layers: tuple[Layer, ...], how: str) -> Coded:
    return Coded(layers, {x.name: grid(x) for x in layers}, dict.fromkeys((x.name for x in layers), how))  # type: ignore[arg-type]


def rounding(module: nn.Module, layers: tuple[Layer, ...], per: str) -> nn.Module:
    """What the file has to compute, in torch."""
    for layer in layers:
        owner = module.get_submodule(layer.module)
        assert isinstance(owner, nn.Linear)
        owner.weight.data = grid(layer).decode()
        owner.register_forward_pre_hook(lambda _, args: (rounded_at_run_time(args[0], per),))
    return module


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize(("kind", "shape"), [(Rows, (4, 6, 32)), (Flat, (6, 32))])
@pytest.mark.parametrize("how", ["token", "dynamic"])
def test_files_compute_in_integers_what_was_asked(target: Target, kind: type, shape: tuple, how: str, tmp_path) -> None:
    x = loud(*shape)
    module, layers, graph = exported(kind, x)
    assert activations(graph, coded(layers, how), target.rules).tensors == ()  # type: ignore[attr-defined]
    path = target.export(graph, tmp_path / "m.onnx", coded(layers, how), {})  # nothing was calibrated
    kernels = target.verify(path)
    assert (len(kernels.integer), kernels.floating) == (len(layers), ())
    with torch.no_grad():
        exact = module(x)
        wanted = rounding(module, layers, "token" if how == "token" else "tensor")(x)
    got = target.session(path)((x,))[0]
    kernel = how == "dynamic" and target.name == "onnxruntime"  # its own takes the least and the greatest value
    assert sqnr(wanted, got) > (25 if kernel else 60)
    if how == "token":
        assert all(sqnr(a, b) > 30 for a, b in zip(exact.flatten(0, -2)[1:], got.flatten(0, -2)[1:], strict=True))


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_a_token_does_not_depend_on_those_beside_it(target: Target, tmp_path) -> None:
    x = loud(4, 6, 32)
    _, layers, graph = exported(Rows, x)
    session = target.session(target.export(graph, tmp_path / "m.onnx", coded(layers, "token"), {}))
    together = session((x,))[0]
    assert torch.equal(session((x[2:3],))[0], together[2:3])


def test_what_several_layers_read_is_brought_to_one_once(tmp_path) -> None:
    _, layers, graph = exported(Rows, noise(4, 6, 32))
    path = OnnxRuntime().export(graph, tmp_path / "m.onnx", coded(layers, "token"), {})
    kinds = [n.op_type for n in ir.load(path).graph]
    assert kinds.count("ReduceMax") == kinds.count("QuantizeLinear") == 2


def test_an_older_opset_has_its_axes_as_an_attribute(tmp_path) -> None:
    x = noise(4, 6, 32)
    _, layers, graph = exported(Rows, x)
    graph = graph.clone()
    new = OnnxRuntime().session(OnnxRuntime().export(graph, tmp_path / "new.onnx", coded(layers, "token"), {}))
    graph.opset_imports[""] = 17
    old = OnnxRuntime().session(OnnxRuntime().export(graph, tmp_path / "old.onnx", coded(layers, "token"), {}))
    assert torch.equal(old((x,))[0], new((x,))[0])


def test_attention_and_gelu_between_them(tmp_path) -> None:
    tokens = torch.randint(0, 50, (4, 12), generator=torch.Generator().manual_seed(0))
    module, layers, graph = exported(Block, tokens)
    linear = tuple(x for x in layers if x.kind == "linear")
    for target in TARGETS:
        path = target.export(graph, tmp_path / f"{target.name}.onnx", coded(linear, "token"), {})
        assert len(target.verify(path).integer) == len(linear) == 4
        with torch.no_grad():
            assert sqnr(module(tokens), target.session(path)((tokens,))[0]) > 35


def test_convolutions_are_stored_and_no_more(tmp_path) -> None:
    x = noise(2, 3, 16, 16)
    module, layers, graph = exported(Residual, x)
    path = OnnxRuntime().export(graph, tmp_path / "m.onnx", coded(layers, "token"), {})
    assert len(OnnxRuntime().verify(path).integer) == 1  # the head
    with torch.no_grad():
        assert sqnr(module(x), OnnxRuntime().session(path)((x,))[0]) > 30


def test_a_static_range_is_fixed_where_a_calibrated_one_would_be_found_anew(tmp_path) -> None:
    x = torch.cat([noise(32, 1, 32), 100 * noise(1, 1, 32)])
    _, layers, graph = exported(Rows, x)
    kinds = {}
    for how in ("int8", "static"):
        found = OnnxRuntime().ranges(graph, coded(layers, how), [(x[i : i + 1],) for i in range(33)])
        path = OnnxRuntime().export(graph, tmp_path / f"{how}.onnx", coded(layers, how), found)
        kinds[how] = {n.op_type for n in ir.load(path).graph}
    assert "DynamicQuantizeLinear" in kinds["int8"] and "DynamicQuantizeLinear" not in kinds["static"]


def test_their_time_is_measured(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("LESSEN_CACHE", str(tmp_path))
    x = noise(1, 6, 32)
    module, layers, graph = exported(Rows, x)
    costs = LayerCosts(OnnxRuntime())
    assert costs.prepare(graph, layers, (x,)) == 6 and costs.prepare(graph, layers, (x,), ["token", "dynamic"]) == 4
    assert costs.seconds(layers[0], grid(layers[0]), "token") > 0
    assert layers_of(module, x)


class Gates(nn.Module):
    """Two LSTM layers, the first in both directions, over [samples, steps, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LSTM(8, 48, batch_first=True, bidirectional=True)  # more weights than the exporter folds
        self.second, self.head = nn.LSTM(96, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)[0])[0])


def test_an_lstm_runs_in_integers(tmp_path) -> None:
    x = noise(4, 5, 8)
    module, layers, graph = exported(Gates, x)
    held = [n for n in graph.graph if n.op_type == "LSTM"]
    assert len(held) == 2 and len(layers) == 7
    path = OnnxRuntime().export(graph, tmp_path / "m.onnx", coded(layers, "dynamic"), {})
    kernels = OnnxRuntime().verify(path)
    assert sum(k.startswith("DynamicQuantizeLSTM") for k in kernels.integer) == 2 and kernels.floating == ()
    with torch.no_grad():
        wanted, one = module(x), module(x[:1])
    assert sqnr(wanted, OnnxRuntime().session(path)((x,))[0]) > 30
    assert sqnr(one, OnnxRuntime().session(path)((x[:1],))[0]) > 30


def test_an_lstm_of_which_one_weight_is_otherwise_stays_in_float(tmp_path) -> None:
    x = noise(4, 5, 8)
    _, layers, graph = exported(Gates, x)
    plan = coded(layers, "dynamic")
    mixed = Coded(layers, plan.codings, {**plan.execution, "second.weight_hh_l0": "weight"})
    kernels = OnnxRuntime().verify(OnnxRuntime().export(graph, tmp_path / "m.onnx", mixed, {}))
    assert [k.split(" ")[0] for k in kernels.floating] == ["LSTM"]
    openvino = OpenVINO().export(graph, tmp_path / "o.onnx", plan, {})
    assert not any(n.domain for n in ir.load(openvino).graph)  # it has no such operator
