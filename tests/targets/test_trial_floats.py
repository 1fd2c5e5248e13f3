"""Ranges by trial when some layers are held in floating point: those are rounded nowhere, and no range is asked for."""

import torch
from torch import nn

from lessen.factorize import SVD
from lessen.models import trace
from lessen.statistics import Statistics
from lessen.targets import Coded, OnnxRuntime, float_onnx


def test_factors_in_float_among_integer_layers(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)
        )
    x = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    layers = trace(net, (x,)).layers
    codings = {layers[1].name: SVD(rank=0.5).encode(layers[1], Statistics())}
    coded = Coded(layers, codings, dict.fromkeys((layer.name for layer in layers), "int8"))
    graph, target = float_onnx(net, (x,)), OnnxRuntime()
    found = target.ranges(graph, coded, [(x,)])
    assert found and not any("between" in name for name in found)
    file = target.export(graph, tmp_path / "net.onnx", coded, found)
    assert target.session(file)((x,))[0].shape == (8, 5)
