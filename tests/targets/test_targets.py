from dataclasses import replace
from pathlib import Path

import onnx_ir as ir
import pytest
import torch

from lessen.errors import LessenError
from lessen.models import Layer
from lessen.statistics import collect
from lessen.targets import (
    TARGETS,
    Coded,
    OnnxRuntime,
    OpenVINO,
    Packed,
    Target,
    compare,
    float_onnx,
    machine,
    peak_memory,
    smoothed,
    target,
    versions,
)
from lessen.targets.costs import LayerCosts, Shape
from lessen.targets.onnx_file import write_whole
from lessen.targets.target import typical
from targets.small_nets import Block, Residual, built, exported, grid, layers_of, noise, sqnr

X = noise(12, 3, 32, 32)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Residual: module, layers, graph, and for each ONNX target its float and int8 file."""
    folder = tmp_path_factory.mktemp("files")
    module, layers, graph = exported(Residual, X)
    coded = Coded(layers, {n.name: grid(n) for n in layers})
    files = {}
    for t in (OnnxRuntime(), OpenVINO()):
        plain = t.export(graph, folder / f"{t.name}_float.onnx", None, {})
        files[t.name] = (plain, t.export(graph, folder / f"{t.name}_int8.onnx", coded, t.ranges(graph, coded, [(X,)])))
    return module, layers, graph, coded, files


def test_names_and_contract():
    for kind in TARGETS:
        t = kind()
        assert isinstance(t, Target) and target(t.name) == t and target(t) is t
    assert hash(OnnxRuntime()) == hash(OnnxRuntime())
    with pytest.raises(LessenError, match="did you mean 'openvino'"):
        target("openvin")


@pytest.mark.parametrize("t", [OnnxRuntime(), OpenVINO()], ids=lambda t: t.name)
def test_any_batch_size_and_what_is_wrong_is_said(t, work):
    module, *_, files = work
    session = t.session(files[t.name][0])
    for n in (1, 5):
        torch.testing.assert_close(session((X[:n],))[0], module(X[:n]).detach(), rtol=1e-3, atol=1e-3)
    with pytest.raises(LessenError, match="takes 1 inputs, not 2"):
        session((X, X))
    with pytest.raises(LessenError, match="does not take inputs"):
        session((X[:, :2],))
    with pytest.raises(LessenError, match="no such file"):
        t.session(Path("absent.onnx"))


@pytest.mark.parametrize("t", [OnnxRuntime(), OpenVINO()], ids=lambda t: t.name)
def test_a_fixed_batch_is_fed_in_parts(t, work, tmp_path):
    module, _, graph, *_ = work
    fixed = graph.clone()
    fixed.graph.inputs[0].shape = ir.Shape([4, 3, 32, 32])
    ir.save(fixed, tmp_path / "fixed.onnx")
    got = t.session(tmp_path / "fixed.onnx")((X[:6],))[0]
    torch.testing.assert_close(got, module(X[:6]).detach(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("t", [OnnxRuntime(), OpenVINO()], ids=lambda t: t.name)
def test_a_broken_file_is_an_error_not_a_crash(t, tmp_path):
    for content in (b"", b"not a model", b"\x08\x07\x12\x00" * 9):
        (tmp_path / "bad.onnx").write_bytes(content)
        with pytest.raises(LessenError, match=r"bad\.onnx"):
            t.session(tmp_path / "bad.onnx")


def test_the_float_baseline_computes_in_float32(work):
    module, *_, files = work
    assert sqnr(module(X).detach(), OpenVINO().session(files["openvino"][0])((X,))[0]) > 100  # bfloat16 would be 40


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "file"
    assert write_whole(path, b"first").read_bytes() == b"first"
    with pytest.raises(LessenError, match="can't be written"):
        write_whole(path / "under_a_file", b"second")
    assert path.read_bytes() == b"first" and [p.name for p in path.parent.iterdir()] == ["file"]


def test_verify_tells_integers_from_floats(work):
    *_, files = work
    for t in (OnnxRuntime(), OpenVINO()):
        plain, coded = (t.verify(p) for p in files[t.name])
        assert plain.share == 0 and len(plain.floating) == 5
        assert coded.share == 1 and len(coded.integer) == 5


def test_compare_takes_turns_and_gives_ratios(work):
    *_, files = work
    first, second, third = compare([files["onnxruntime"][0], *files["onnxruntime"]], (X,), OnnxRuntime(), 2, 0.3)
    assert first.ratio == 1 and first.batch == 2 and first.n == second.n >= 15
    assert first.p10 <= first.median <= first.p90 and third.ratio_low <= third.ratio <= third.ratio_high
    assert second.ratio_low <= 1.3 and second.ratio_high >= 0.75  # the same file
    with pytest.raises(LessenError, match="a batch of 64"):
        compare([files["onnxruntime"][0]], (X,), OnnxRuntime(), 64)


def test_memory_is_that_of_the_file_not_of_this_process(work):
    *_, files = work
    ballast = torch.ones(60_000_000)  # 240 MB that a forked child's ru_maxrss would show
    for t in (OnnxRuntime(), OpenVINO()):
        memory = peak_memory(files[t.name][0], (X[:1],), t)
        assert 20e6 < memory.floor < memory.peak < 230e6 and 0 < memory.own < 150e6
    assert len(ballast)
    with pytest.raises(LessenError, match="measuring its memory failed"):
        peak_memory(Path("absent.onnx"), (X[:1],), OnnxRuntime())


def test_machine_and_versions():
    here = machine()
    assert here["cores"] >= 1 and here["cpu"] and here["memory_bytes"] > 2**28
    assert {"torch", "onnxruntime", "openvino"} <= set(versions())


def test_packed_opens_without_its_class_and_is_smaller(work, tmp_path):
    module, layers, graph, coded, files = work
    t = Packed()
    plain = t.export(graph, tmp_path / "float.lessen", None, {})
    path = t.export(graph, tmp_path / "m.lessen", coded, {})
    torch.testing.assert_close(t.session(plain)((X,))[0], module(X).detach(), rtol=1e-3, atol=1e-3)
    assert sqnr(module(X).detach(), t.session(path)((X,))[0]) > 35
    assert path.stat().st_size < files["onnxruntime"][1].stat().st_size
    assert t.verify(path).share == 0 and len(t.verify(path).floating) == 5
    assert all(t.nbytes(n, coded.codings[n.name]) < n.weight.numel() + 200 for n in layers)
    assert peak_memory(path, (X[:1],), t).peak > 0


@pytest.mark.parametrize("t", [OnnxRuntime(), OpenVINO()], ids=lambda t: t.name)
def test_costs_add_up_and_are_remembered(t, work, tmp_path, monkeypatch):
    monkeypatch.setenv("LESSEN_CACHE", str(tmp_path))
    _, layers, graph, coded, _ = work
    costs = LayerCosts(t)
    assert costs.seconds(layers[0]) == 0
    assert costs.prepare(graph, layers, (X,)) == 3 * len({Shape.of(n) for n in layers})
    for n in layers:
        assert 0 < costs.seconds(n) < 0.1 and 0 < costs.seconds(n, coded.codings[n.name], True) < 0.1
    again = LayerCosts(t)
    assert again.prepare(graph, layers, (X,)) == 0 and again.seconds(layers[0]) == costs.seconds(layers[0])
    depthwise = next(n for n in layers if n.groups > 1)  # alone in its family
    half = replace(depthwise, weight=depthwise.weight[:16], groups=16, macs=depthwise.macs // 2)
    assert again.seconds(half) == pytest.approx(costs.seconds(depthwise) / 2)
    file = next(tmp_path.glob("*.json"))
    for content in (b"", b"{", b"[1]", b'{"float nonsense": 1}', b'{"float conv 1x1 p1 g1": "x"}'):
        file.write_bytes(content)
        assert LayerCosts(t).seconds(layers[0]) == 0


def test_a_shape_that_was_not_profiled_takes_no_more_time_than_a_larger_one(tmp_path, monkeypatch):
    monkeypatch.setenv("LESSEN_CACHE", str(tmp_path))
    known = {"float linear 4x32 p1 g1": 2e-6, "float linear 16x4 p2 g1": 4e-5, "float linear 16x64 p1 g1": 3e-6}
    layer = Layer("x", "linear", torch.zeros(4, 28), macs=4 * 28)
    costs = LayerCosts(OnnxRuntime())
    costs._table |= known
    assert costs.seconds(layer) == pytest.approx(2e-6 * 28 / 32)
    odd = Layer("x", "linear", torch.zeros(15, 4), macs=15 * 4)  # the nearest is the one busy moment
    assert costs.seconds(odd) == 3e-6


def test_smoothing_keeps_the_function_and_helps_outliers(tmp_path):
    module = built(Block)
    with torch.no_grad():
        module.norm.weight[3] = 40  # one channel of the normalized input is forty times the others
        module.qkv.weight[:, 3] /= 40
    tokens = torch.randint(0, 50, (16, 12), generator=torch.Generator().manual_seed(0))
    layers, graph, t = layers_of(module, tokens), float_onnx(module, (tokens,)), OnnxRuntime()
    extremes = {n: s.extremes for n, s in collect(module, layers, [(tokens,)]).items() if s.extremes is not None}
    smooth = smoothed(graph, layers, extremes)
    wanted = module(tokens).detach()
    results = {}
    for name, (g, found) in {"plain": (graph, layers), "smooth": (smooth.model, smooth.layers)}.items():
        floats = t.session(t.export(g, tmp_path / f"{name}_float.onnx", None, {}))((tokens,))[0]
        assert sqnr(wanted, floats) > 90
        coded = Coded(found, {n.name: grid(n) for n in found})
        path = t.export(g, tmp_path / f"{name}.onnx", coded, t.ranges(g, coded, [(tokens,)]))
        results[name] = sqnr(wanted, t.session(path)((tokens,))[0])
        assert len(t.verify(path).integer) == 4
    assert results["smooth"] > results["plain"] + 3
    assert set(smooth.scales) == {"qkv.weight", "out.weight", "up.weight", "down.weight"}


def test_a_run_that_leaves_an_event_out_shifts_no_other():
    """OpenVINO reports nothing of a node that took less than a microsecond: its neighbours' times are their own."""
    whole = [(False, 1e-6, "reshape"), (True, 8e-3, "large"), (True, 2e-3, "small"),
             (False, 5e-6, "loop"), (False, 9e-6, "loop")]  # fmt: skip
    part = [(product, seconds * 1.1, name) for product, seconds, name in whole[1:]]
    found = typical([part, whole, part, part, part, part, part, part])
    assert [name for *_, name in found] == ["reshape", "large", "small", "loop", "loop"]
    assert [seconds for _, seconds, _ in found] == pytest.approx([5e-7, 8.8e-3, 2.2e-3, 5.5e-6, 9.9e-6])
    assert [product for product, *_ in found] == [False, True, True, False, False]
    assert typical([whole, part, whole, whole])[0][1] == 1e-6
    assert typical([]) == []
