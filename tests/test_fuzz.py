"""Whatever is in a file: it is read, or refused with a `LessenError`. Nothing else is ever raised.

Damaged containers, .npz and ONNX files are in tests/codings, tests/data and tests/models/onnx_import; here is what
passes their checksums and parsers and still makes no sense: files that somebody wrote that way.
"""

from __future__ import annotations

import contextlib
import dataclasses
from functools import cache

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from lessen.bench import Bench, realize
from lessen.codings.container import Package, read_lessen, write_lessen
from lessen.errors import LessenError
from lessen.models import load, trace
from lessen.models.packed import load_into, unpack_file
from lessen.packed import write_packed
from lessen.plan import Plan, Treatment
from lessen.quantize import Uniform
from lessen.targets import float_onnx

QUICK = settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
PLAN = """lessen: 1
target: onnxruntime
seed: 3
model: 3f
smooth: 0.5
recover: {epochs: 2, lr: 0.0005, batch_size: 64, distillation: {alpha: 0.9, temperature: 2.0}}
tuned_widths: true
channels: {features.3: 0-3 7}
layers:
  a.weight: {technique: Uniform, bits: 4, activations: 8}
  b.weight: {technique: Stack, steps: [{technique: Magnitude, sparsity: 0.5}, {technique: Uniform, bits: 4}]}
  c.weight: {technique: keep}
"""
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 2**70), st.floats(), st.text(max_size=6), st.just("0-9999999")
)
values = st.recursive(
    scalars, lambda x: st.one_of(st.lists(x, max_size=3), st.dictionaries(st.text(max_size=5), x, max_size=3))
)


def places(value: object, path: tuple = ()) -> list[tuple]:
    """Every place in a nest of dicts and lists."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for k, v in pairs for p in places(v, (*path, k)))]


def changed(value: object, path: tuple, new: object) -> object:
    """A copy with the value at `path` replaced."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)  # type: ignore[call-overload]
    copy[path[0]] = changed(copy[path[0]], path[1:], new)
    return copy


@given(st.data())
@settings(max_examples=100)
def test_a_plan_with_any_value_anywhere(data):
    plan = yaml.safe_load(PLAN)
    made = changed(plan, data.draw(st.sampled_from(places(plan))), data.draw(values))
    with contextlib.suppress(LessenError):
        read = Plan.from_yaml(yaml.safe_dump(made, allow_unicode=True))
        assert Plan.from_yaml(read.to_yaml()).sha256() == read.sha256()


@given(st.data())
@settings(max_examples=100)
def test_a_damaged_plan(data):
    cut, at = data.draw(st.integers(0, 30)), data.draw(st.integers(0, len(PLAN)))
    text = PLAN[:at] + data.draw(st.text(max_size=6)) + PLAN[at + cut :]
    with contextlib.suppress(LessenError):
        Plan.from_yaml(text)


class Net(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))


@cache
def package() -> Package:
    """A real packed file of a small network."""
    import tempfile
    from pathlib import Path

    x = torch.randn(2, 2, 6, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Net().eval()
    bench = Bench(net, trace(net, (x,)), {})
    made = realize(bench, {n: Treatment(Uniform(bits=4)) for n in bench.layers})
    with tempfile.TemporaryDirectory() as folder:
        return read_lessen(write_packed(Path(folder) / "net.lessen", made, float_onnx(net, (x,)), Plan("packed")))


def opened_somehow(made: Package, folder) -> None:
    """Opens the file in every way there is."""
    path = folder / "hostile.lessen"
    with contextlib.suppress(LessenError):
        write_lessen(path, made)
    for way in (lambda: load(path), lambda: load_into(Net(), path), lambda: unpack_file(path, folder / "plain.onnx")):
        with contextlib.suppress(LessenError):
            way()


def test_the_real_one_opens(tmp_path):
    write_lessen(tmp_path / "net.lessen", package())
    x = torch.randn(2, 2, 6)
    torch.testing.assert_close(load(tmp_path / "net.lessen").module(x), load_into(Net(), tmp_path / "net.lessen")(x))


@pytest.mark.parametrize("part", ["info", "layouts"])
@given(data=st.data())
@QUICK
def test_a_packed_file_with_any_value_anywhere(tmp_path, part, data):
    old = getattr(package(), part)
    new = changed(old, data.draw(st.sampled_from(places(old)[1:])), data.draw(values))
    opened_somehow(dataclasses.replace(package(), **{part: new}), tmp_path)


@given(data=st.data())
@QUICK
def test_edits_that_nobody_made(tmp_path, data):
    edit = {"path": "0.weight", "dim": 0, "kept": torch.tensor([0, 2], dtype=torch.int32)}
    setting = {"path": "0", "name": "out_channels", "value": 2}
    edits = [changed(e, (data.draw(st.sampled_from(sorted(e))),), data.draw(values)) for e in (edit, setting)]
    opened_somehow(dataclasses.replace(package(), edits=edits), tmp_path)


@given(data=st.data())
@QUICK
def test_weights_that_are_missing_or_of_another_shape(tmp_path, data):
    others = dict(package().others)
    name = data.draw(st.sampled_from(sorted(others)))
    shape = data.draw(st.lists(st.integers(0, 4), max_size=3))
    others[name] = torch.zeros(shape)
    if data.draw(st.booleans()):
        del others[name]
    opened_somehow(dataclasses.replace(package(), others=others), tmp_path)
