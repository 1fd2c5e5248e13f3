"""Weights full of zeros in OpenVINO: the kernels that pass over them run where the CPU has them, to the same bits."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from lessen import Magnitude, Stack, Uniform
from lessen.forecast import zeros_note
from lessen.models import trace
from lessen.report.phrases import zeros
from lessen.report.schema import Kernels
from lessen.statistics import Statistics
from lessen.targets import OpenVINO, float_onnx, machine
from lessen.targets.coded import Coded
from lessen.targets.ov import ZEROS
from report.samples import sample

pytest.importorskip("openvino")
AMX = "amx_int8" in machine()["flags"]


class Plain(OpenVINO):
    skips_zeros = None


def written(folder: Path, sparsity: float) -> tuple[Path, torch.Tensor]:
    """Two linear layers in 8-bit integers, that share of each weight zero."""
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256)).eval().requires_grad_(False)
    for p in net.parameters():
        p.copy_(torch.randn(p.shape, generator=generator) / 16)
    x = torch.randn(8, 256, generator=generator)
    layers = trace(net, (x,)).layers
    technique = Stack((Magnitude(sparsity), Uniform(8)))
    codings = {layer.name: technique.encode(layer, Statistics()) for layer in layers}
    model, coded = float_onnx(net, (x,)), Coded(layers, codings, dict.fromkeys(codings, "int8"))
    target = OpenVINO()
    return target.export(model, folder / "net.onnx", coded, target.ranges(model, coded, [(x,)])), x


@pytest.mark.parametrize(("sparsity", "layers"), [(0.9, 2), (0.5, 0)])
def test_layers_full_of_zeros_run_by_sparse_kernels_with_the_same_outputs(
    tmp_path: Path, sparsity: float, layers: int
) -> None:
    path, x = written(tmp_path, sparsity)
    kernels = OpenVINO().verify(path)
    assert len(kernels.sparse) == (layers if AMX else 0) and len(kernels.integer) == 2
    assert not Plain().verify(path).sparse
    assert torch.equal(OpenVINO().session(path)((x,))[0], Plain().session(path)((x,))[0])


def test_it_is_asked_for_where_the_cpu_has_it() -> None:
    asked = OpenVINO().settings().get("CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE")
    assert asked == (ZEROS if AMX else None)
    assert "CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE" not in Plain().settings()


def test_the_report_tells_how_to_ask() -> None:
    report = dataclasses.replace(sample(), target="openvino")
    assert report.kernels is not None and zeros(report)
    assert "no" not in zeros(dataclasses.replace(report, kernels=Kernels(41, 11, 7))).split()
    assert f"CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE={ZEROS}" in zeros(
        dataclasses.replace(report, kernels=Kernels(41, 11, 7))
    )
    assert "AMX" in zeros(report) and "DECOMPRESSION" not in zeros(report)
    assert "from 85 % on" in zeros_note("openvino", ZEROS)
