"""Weight-only products multiply codes where that is quicker, and floats made at loading elsewhere."""

from __future__ import annotations

import onnx_ir as ir
import pytest
import torch
from torch import nn

from lessen.models import trace
from lessen.quantize import Uniform
from lessen.statistics import Statistics
from lessen.targets import Coded, OnnxRuntime, OpenVINO, float_onnx


class Tokens(nn.Module):
    """A product for each of the tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.inner(x))


def kinds(target, width, tokens, tmp_path):
    module, example = Tokens(width).eval(), (torch.randn(2, tokens, width),)
    layers = tuple(trace(module, example).layers)
    codings = {x.name: Uniform(8).encode(x, Statistics()) for x in layers}
    coded = Coded(layers, codings, dict.fromkeys(codings, "weight"))
    path = target.export(float_onnx(module, example), tmp_path / "m.onnx", coded, {})
    return {n.op_type for n in ir.load(path).graph}


@pytest.mark.parametrize(("width", "tokens", "codes"), [(64, 16, False), (384, 1, True), (384, 16, False)])
def test_onnx_runtime_multiplies_codes_of_large_weights_for_few_tokens(width, tokens, codes, tmp_path):
    found = kinds(OnnxRuntime(), width, tokens, tmp_path)
    assert ("DequantizeLinear" in found) == codes
    assert ("Cast" in found) != codes


def test_openvino_multiplies_codes_always(tmp_path):
    assert "DequantizeLinear" in kinds(OpenVINO(), 64, 16, tmp_path)
