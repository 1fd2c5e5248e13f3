"""What was trained at eight bits of activations runs in integers, in the learned ranges, as it was simulated."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

import lessen
import small
from lessen import Uniform, write_integers
from lessen.bench import Bench, realize
from lessen.data import load_data
from lessen.errors import LessenError
from lessen.models import fold_batchnorm, trace
from lessen.plan import Treatment
from lessen.recover import plain, recovery_for, settings_of
from lessen.statistics import collect
from lessen.targets import OnnxRuntime, OpenVINO
from lessen.train import FineTune, copied
from lessen.train.lsq import LSQ
from lessen.train.method import Lesson
from lessen.train.pact import PACT
from lessen.train.qat_quantizer import FakeQuantize

DATA = {"calibration": small.data(512, seed=4), "validation": small.data(64), "test": small.data(64, seed=2)}
PART = load_data(DATA).calibration
X = small.data(2)[0]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return fold_batchnorm(small.trained(), (X,))[0]


def trained(net: nn.Module, method: LSQ) -> nn.Module:
    student = copied(net)
    method.fit(student, Lesson(net, trace(student, (X,)).layers, PART))
    return student


def with_the_files_rounding(student: nn.Module, path: Path) -> nn.Module:
    """The simulation with the two roundings that only the file has, both read from it.

    Runtimes pool in integers, so what a pool reads is quantized too, in a calibrated range. Biases are stored in int32
    in units of (step of the input) x (step of the weight), which are coarse where weights have few bits.
    """
    twin, model = copy.deepcopy(student), ir.load(path)
    stored = {n.inputs[0].name: n for n in model.graph if n.op_type == "DequantizeLinear"}
    for name, node in stored.items():
        if name.endswith(".bias_int32"):
            with torch.no_grad():
                twin.get_parameter(name.removesuffix("_int32")).copy_(decoded(node))
    (pool,) = (n for n in model.graph if "Pool" in n.op_type)
    step, zero = (float(v.const_value.numpy()) for v in pool.inputs[0].producer().inputs[1:])
    read = FakeQuantize(torch.tensor(step), -int(zero), 255 - int(zero))
    twin.get_submodule("7").register_forward_pre_hook(lambda _, args: (read(args[0]),))
    return twin


def decoded(node: ir.Node) -> Tensor:
    codes, steps = (v.const_value.numpy().astype(np.float64) for v in node.inputs[:2])
    return torch.tensor(codes * steps)


@pytest.mark.parametrize(("target", "bits"), [(OnnxRuntime(), 8), (OnnxRuntime(), 2), (OpenVINO(), 4), (OpenVINO(), 2)])
def test_the_file_computes_what_was_simulated(net: nn.Module, tmp_path: Path, target, bits: int) -> None:
    """All but the two roundings that only the file has is equal; a value in a tie may go to the other side."""
    student = trained(net, LSQ(bits, 8, epochs=1))
    path = write_integers(student, tmp_path / "q.onnx", DATA, target)
    assert target.verify(path).share == 1.0
    x = small.data(200, seed=8)[0]
    with torch.no_grad():
        simulated, exact = student(x), with_the_files_rounding(student, path)(x)
    (got,) = target.session(path)([x])
    same = (got - exact).abs().amax(1) < 1e-4
    assert int(same.sum()) >= 196
    assert (got - exact).norm() < 0.1 * (got - simulated).norm()
    assert (got - simulated).norm() < 0.01 * simulated.norm()


def test_the_learned_ranges_are_in_the_file(net: nn.Module, tmp_path: Path) -> None:
    student = trained(net, LSQ(2, 8, epochs=3, lr=1e-3, batch_size=32))
    learned = student.quantized.inputs
    start = trained(net, LSQ(2, 8, epochs=0)).quantized.inputs
    assert all(learned[n].high != start[n].high for n in learned)
    model = ir.load(write_integers(student, tmp_path / "q.onnx", DATA))
    scales = [float(n.inputs[1].const_value.numpy()) for n in model.graph if n.op_type == "QuantizeLinear"]
    for r in learned.values():
        assert np.isclose(scales, (r.high - r.low) / 255, rtol=1e-5).any()


def test_what_runtimes_cannot_execute_is_said(net: nn.Module, tmp_path: Path) -> None:
    student = trained(net, LSQ(4, 4, epochs=0))
    with pytest.raises(LessenError, match=r"(?s)simulated, runtimes execute 8.*activations=8"):
        write_integers(student, tmp_path / "q.onnx", DATA)
    with pytest.raises(LessenError, match="was not trained"):
        write_integers(net, tmp_path / "q.onnx", DATA)
    assert not list(tmp_path.iterdir())


class Job:
    """As much of a job as recovery looks at."""

    def __init__(self, model: nn.Module, using: tuple[object, ...]) -> None:
        self.model = type("M", (), {"module": model})
        self.train, self.seed, self.using = load_data(DATA), 0, using


def test_layers_that_run_on_integers_are_recovered_with_quantized_activations(net: nn.Module) -> None:
    from lessen.recover import made

    traced = trace(net, (X,))
    bench = Bench(net, traced, collect(net, traced.layers, PART.batches()))
    plan = {n: Treatment(Uniform(3), 8 if i else None) for i, n in enumerate(bench.layers)}
    job = Job(net, (Uniform, PACT))
    recovery = recovery_for(job, plan)
    assert isinstance(recovery, PACT) and isinstance(recovery_for(Job(net, (Uniform,)), plan), LSQ)
    assert recovery_for(job, {n: Treatment(Uniform(3)) for n in plan}) == FineTune()
    settings = plain(LSQ(epochs=4, lr=3e-3, batch_size=32))
    first, second = (made(job, bench, plan, settings) for _ in range(2))
    assert set(first.inputs) == {n for n, t in plan.items() if t.activations}
    assert set(first.module.state_dict()) == set(net.state_dict())
    for name, coding in first.codings.items():
        held = bench.layers[name].to_matrix(first.module.get_parameter(name))
        assert torch.equal(held, coding.decode()) and torch.equal(held, second.codings[name].decode())
    assert first.inputs == second.inputs
    x = small.data(300, seed=9)[0]
    before = realize(bench, plan).module
    lost = [float((m(x) - net(x)).square().mean().detach()) for m in (first.module, before)]
    assert lost[0] <= lost[1] * (
        1 + 1e-6
    )  # on the hundred samples set aside here a gain may not stand out of the noise


@pytest.mark.parametrize("settings", [LSQ(4, 8, epochs=3), PACT(decay=1e-3), FineTune(epochs=1)])
def test_a_plan_keeps_the_recovery(settings) -> None:
    assert settings_of(plain(settings)) == settings


@pytest.mark.parametrize(
    "bad", [{"technique": "Magic"}, {"technique": "LSQ", "speed": 3}, {"technique": "LSQ", "epochs": "x"}]
)
def test_a_plan_with_a_recovery_that_is_none_is_refused(bad) -> None:
    with pytest.raises(LessenError, match="recover"):
        settings_of(bad)


def test_in_one_line_with_batch_norms_that_are_folded(tmp_path: Path) -> None:
    whole = small.trained()
    student = lessen.apply(whole, LSQ(bits=8, activations=8, epochs=1), small.data(300, seed=4), where=("0", "3", "11"))
    assert not [m for m in student.modules() if isinstance(m, nn.BatchNorm2d)] and isinstance(whole[1], nn.BatchNorm2d)
    assert set(student.quantized.inputs) == {"0.weight", "3.weight", "11.weight"}
    path = write_integers(student, tmp_path / "q.onnx", DATA)
    assert len(OnnxRuntime().verify(path).integer) == 3
