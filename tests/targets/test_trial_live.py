"""What trials of ranges see of inputs whose range is found anew in every batch."""

import numpy as np
import pytest
import torch
from torch import nn

from lessen.models import trace
from lessen.targets import Coded, OnnxRuntime, float_onnx
from lessen.targets.dynamic import round_live
from lessen.targets.graph import run_onnx
from lessen.targets.ranges import Range
from lessen.targets.trial import answers_rounded, disturbance

RULES = OnnxRuntime().rules


def network() -> tuple[nn.Module, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 8)).eval()
    return net, torch.randn(4, 16, generator=torch.Generator().manual_seed(1))


def test_live_ranges_are_rounded_as_fixed_ranges_of_the_same_batch_are():
    net, x = network()
    graph, layers = float_onnx(net, (x,)), trace(net, (x,)).layers
    coded = Coded(layers, {}, dict.fromkeys((layer.name for layer in layers), "int8"))
    inner = net[:2](x).detach()
    seen = {graph.graph.inputs[0].name: x, graph.graph.node(1).outputs[0].name: inner}
    fixed = {str(n): Range(min(float(v.min()), 0.0), max(float(v.max()), 0.0)) for n, v in seen.items()}
    live = {n: Range(r.low, r.high, live=True) for n, r in fixed.items()}
    wanted, found = (disturbance(graph, coded, r, RULES, [(x,)]) for r in (fixed, live))
    assert 1e-7 < wanted < 1e-3 and found == pytest.approx(wanted, rel=0.4)  # other codes, as fine
    parts = {n: b for n, _, b in answers_rounded(graph, coded, live, RULES, [(x,)])}
    floats = run_onnx(graph, [x.numpy()])[0]
    assert set(parts) == {layer.name for layer in layers}
    assert all(0 < np.abs(b[0][0] - floats).max() < 0.1 for b in parts.values())


def test_rounding_an_input_leaves_other_readers_alone():
    net, x = network()
    graph = float_onnx(net, (x,))
    value = graph.graph.inputs[0]
    readers = [(use.node, use.idx) for use in value.uses()]
    round_live(graph.graph, readers)
    assert {n.op_type for n in graph.graph} >= {"DynamicQuantizeLinear", "DequantizeLinear"}
    off = np.abs(run_onnx(graph, [x.numpy()])[0] - net(x).detach().numpy()).max()
    assert 1e-6 < off < 0.1
