"""`lessen measure`: files side by side."""

from __future__ import annotations

import pytest
import torch

import small
from lessen import LessenError
from lessen.beside import measure_files
from lessen.targets import OnnxRuntime, float_onnx


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    place = tmp_path_factory.mktemp("files")
    made = []
    for name, network in (("good", small.trained()), ("untrained", small.network())):
        graph = float_onnx(network.eval(), (torch.zeros(2, 1, 12, 12),))
        made.append(OnnxRuntime().export(graph, place / f"{name}.onnx", None, {}))
    return made


def test_figures_are_those_of_the_files(files):
    good, untrained = measure_files(files, small.data(200))
    assert good.measured.file_bytes == files[0].stat().st_size and good.ratios is None
    assert good.measured.metric.value > untrained.measured.metric.value + 0.2
    assert good.measured.latency_ms.median > 0 and good.measured.macs == untrained.measured.macs
    assert untrained.ratios.macs == 1.0


def test_without_labels_the_first_file_is_the_reference(files):
    first, other = measure_files(files, small.data(200)[0])
    assert first.measured.metric.name == "cosine"
    assert first.measured.metric.value == pytest.approx(1) and other.measured.metric.value < 0.99


@pytest.mark.parametrize("name", ["none.onnx", "plan.yaml"])
def test_what_is_no_model_is_named(files, tmp_path, name):
    (tmp_path / "plan.yaml").write_text("lessen: 1")
    with pytest.raises(LessenError, match=name):
        measure_files([files[0], tmp_path / name], small.data(50))
