"""Smoothing on a block with an outlier channel: the same function, better integers, files that load both ways."""

import dataclasses

import pytest
import torch

from lessen.artifact import Exporter
from lessen.bench import Bench, realize
from lessen.data import load_data
from lessen.models import trace
from lessen.models.packed import load_into, load_packed
from lessen.packed import write_packed
from lessen.plan import Plan, Treatment
from lessen.quantize import Uniform
from lessen.smoothing import STRENGTH, smoothed_bench
from lessen.statistics import collect
from lessen.statistics.losses import error_of_outputs
from lessen.targets import OnnxRuntime, Packed
from lessen.train import through_codings
from lessen.train.loop import copied
from targets.small_nets import Block, built, sqnr

TOKENS = torch.randint(0, 50, (90, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def benches():
    module = built(Block)
    with torch.no_grad():
        module.norm.weight[3] = 40  # one channel of the normalized input is forty times the others
        module.qkv.weight[:, 3] /= 40
    part = load_data(TOKENS, seed=0).calibration
    traced = trace(module, (TOKENS[:2],))
    statistics = collect(module, traced.layers, part.batches(), error_of_outputs)
    bench = Bench(module, traced, statistics)
    exporter = Exporter(OnnxRuntime(), bench, (TOKENS[:2],), part)
    return bench, exporter, *smoothed_bench(bench, exporter)


def int8(bench, skip=()):
    kinds = {n: layer.kind for n, layer in bench.layers.items() if n not in skip}
    return {n: Treatment(Uniform(bits=8), 8 if k == "linear" else None) for n, k in kinds.items()}


def test_integers_gain_and_the_network_in_torch_is_the_same(benches, tmp_path):
    plain, exporter, smooth, second = benches
    wanted = plain.module(TOKENS).detach()
    found = {}
    for name, bench, door in (("plain", plain, exporter), ("smooth", smooth, second)):
        made = realize(bench, int8(bench))
        assert sqnr(wanted, made.module(TOKENS).detach()) > 25
        path = door.write(made, tmp_path / f"{name}.onnx")
        found[name] = sqnr(wanted, OnnxRuntime().session(path)((TOKENS,))[0])
    assert found["smooth"] > found["plain"] + 3
    assert smooth.smooth == STRENGTH and plain.smooth is None
    floats = second.write_original(tmp_path / "float.onnx")
    assert sqnr(wanted, OnnxRuntime().session(floats)((TOKENS,))[0]) > 90


def test_a_norm_that_only_smoothed_layers_read_takes_the_scale_in(benches):
    *_, second = benches
    names = [n.name for n in second.graph.graph if n.name and n.name.endswith("_smooth")]
    assert len(names) == 3  # out, up and down; the norm feeds qkv alone
    assert {"norm.weight", "norm.bias"} <= set(second.smoothed.gains)


def test_harm_is_the_same_function_of_the_network(benches):
    plain, _, smooth, _ = benches
    for name, s in smooth.scales.items():
        delta = torch.randn(plain.layers[name].shape, generator=torch.Generator().manual_seed(1))
        first, again = plain.statistics[name].harm(delta), smooth.statistics[name].harm(delta * s)
        assert again == pytest.approx(first, rel=1e-3)
    low, high = plain.statistics["qkv.weight"].low, plain.statistics["qkv.weight"].high
    assert smooth.statistics["qkv.weight"].high - smooth.statistics["qkv.weight"].low < high - low


def test_files_load_with_and_without_the_class(benches, tmp_path):
    *_, smooth, second = benches
    made = realize(smooth, int8(smooth, skip=("up.weight",)))
    path = tmp_path / "m.lessen"
    write_packed(path, made, second.graph_of(made), Plan("onnxruntime"))
    wanted = made.module(TOKENS)
    torch.testing.assert_close(load_into(built(Block), path)(TOKENS), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(load_packed(path)(TOKENS), wanted, rtol=1e-4, atol=1e-4)


def test_training_through_smoothed_codings_and_what_else_it_moves(benches, tmp_path):
    *_, smooth, second = benches
    made = realize(smooth, int8(smooth, skip=("up.weight",)))
    student = copied(made.module)
    with through_codings(student, made.layers, made.codings, frozenset(), made.scales) as codings:
        torch.testing.assert_close(student(TOKENS), made.module(TOKENS), rtol=1e-4, atol=1e-4)
        with torch.no_grad():
            for name in ("norm.weight", "norm.bias", "up.weight", "up.bias"):
                student.get_parameter(name).mul_(1.1)
    trained = dataclasses.replace(made, module=student.requires_grad_(False), codings=codings)
    for name in codings:
        assert torch.equal(codings[name].decode(), made.codings[name].decode())
    files = Exporter(Packed(), smooth, (TOKENS[:2],), second.calibration, second.smoothed)
    path = files.write(trained, tmp_path / "trained.lessen")
    assert sqnr(student(TOKENS).detach(), Packed().session(path)((TOKENS,))[0]) > 90


def test_nothing_to_smooth(benches):
    plain, exporter, smooth, second = benches
    assert smoothed_bench(smooth, second) is None
    assert smoothed_bench(plain, dataclasses.replace(exporter, target=Packed())) is None


def test_a_plan_remembers_the_strength():
    plan = Plan("onnxruntime", smooth=0.7)
    assert Plan.from_yaml(plan.to_yaml()) == plan
    assert "smooth" not in Plan("onnxruntime").to_yaml()
