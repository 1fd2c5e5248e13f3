"""Files of one bench: ranges are measured once, but never those that depend on the plan."""

from __future__ import annotations

import pytest
import torch

import small
from lessen.artifact import Exporter
from lessen.bench import Bench, realize
from lessen.codings.container import read_lessen
from lessen.data import load_data
from lessen.factorize import SVD
from lessen.memory import give_back
from lessen.models import fold_batchnorm, load, trace
from lessen.plan import Treatment
from lessen.quantize import Uniform
from lessen.stack import Stack
from lessen.statistics import collect
from lessen.targets import float_onnx, target


@pytest.fixture(scope="module")
def bench_and_data():
    net, samples = small.trained(), load_data(small.data())
    inputs = next(samples.calibration.batches(2)).inputs
    module, folded = fold_batchnorm(net, inputs)
    traced = trace(module, inputs)
    return Bench(module, traced, collect(module, traced.layers, samples.calibration.batches()), folded), samples, inputs


def exporter_of(bench_and_data) -> Exporter:
    bench, samples, inputs = bench_and_data
    return Exporter(target("onnxruntime"), bench, inputs, samples.calibration)


def test_what_lies_between_two_factors_is_measured_for_each_plan(bench_and_data, tmp_path):
    """The same file, whether another plan with other factors was written before or not: replays depend on it."""
    bench = bench_and_data[0]
    name = next(x.name for x in bench.traced.layers if x.kind == "linear")
    plans = [{name: Treatment(Stack((SVD(rank), Uniform(8))), 8)} for rank in (0.75, 0.25)]
    busy, fresh = exporter_of(bench_and_data), exporter_of(bench_and_data)
    first, second = (busy.write(realize(bench, p), tmp_path / f"{i}.onnx").read_bytes() for i, p in enumerate(plans))
    assert first != second
    assert fresh.write(realize(bench, plans[1]), tmp_path / "fresh.onnx").read_bytes() == second
    assert busy.write(realize(bench, plans[0]), tmp_path / "again.onnx").read_bytes() == first


def test_a_norm_that_only_the_graph_folded_leaves_the_packed_weight_coded(bench_and_data, tmp_path):
    _, samples, inputs = bench_and_data
    net = small.trained()  # its norm not folded by us: the exporter does it, and the graph's weight is another
    traced = trace(net, inputs)
    bench = Bench(net, traced, collect(net, traced.layers, samples.calibration.batches()))
    exporter = Exporter(target("packed"), bench, inputs, samples.calibration)
    made = realize(bench, {x.name: Treatment(Uniform(8)) for x in traced.layers})
    path = exporter.write(made, tmp_path / "model.lessen")
    package = read_lessen(path)
    assert [k for k in package.others if k.startswith("gain:")]
    assert not [k for k, v in package.others.items() if k.startswith("graph:") and v.ndim > 1]
    (out,) = target("packed").session(path)(inputs)
    assert torch.allclose(out, made.module(*inputs), atol=1e-4)


def test_large_samples_come_in_small_batches():
    few = load_data((torch.zeros(40, 3, 300, 300), torch.zeros(40, dtype=torch.long)))
    assert max(b.n for b in few.calibration.batches()) == 2**20 // 270_000
    assert max(b.n for b in few.calibration.batches(8)) == 8  # whoever asks gets what was asked for
    assert max(b.n for b in load_data(small.data()).calibration.batches()) == 32


def test_giving_memory_back_changes_nothing():
    before = torch.arange(10)
    give_back()
    assert before.tolist() == list(range(10))


class Tied(torch.nn.Module):
    """One weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(1, 1, 3), torch.nn.Conv2d(1, 1, 3)
        self.wide, self.again = torch.nn.Linear(64, 64), torch.nn.Linear(64, 64)
        self.again.weight = self.wide.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.again(self.wide(self.second(self.first(x)).flatten(1)).relu())


@pytest.mark.parametrize("where", ["onnxruntime", "openvino"])
def test_a_weight_that_has_two_names_is_written_in_codes_once(where, tmp_path):
    with torch.random.fork_rng():
        tied, samples = Tied().eval(), load_data(torch.randn(40, 1, 12, 12))
    inputs = next(samples.calibration.batches(2)).inputs
    net = load(target(where).export(float_onnx(tied, inputs), tmp_path / "float.onnx", None, {})).module
    traced = trace(net, inputs)
    bench = Bench(net, traced, collect(net, traced.layers, samples.calibration.batches()))
    exporter = Exporter(target(where), bench, inputs, samples.calibration)
    shared = [x.name for x in traced.layers if x.kind == "linear"]
    assert len(shared) == 1
    made = realize(bench, {shared[0]: Treatment(Uniform(8), 8)})
    assert exporter.write(made, tmp_path / "m.onnx").stat().st_size < 64 * 64 + 4096
    assert target(where).verify(tmp_path / "m.onnx").integer
