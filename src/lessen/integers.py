"""A network after quantization-aware training becomes a file that computes in integers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from torch import nn

from .artifact import Exporter
from .bench import Bench, Compressed
from .data import load_data
from .errors import LessenError
from .job import example_like
from .models import load, trace
from .plan import Treatment
from .targets import Target
from .targets import target as target_named
from .train.qat import Quantized
from .train.qat_inputs import remove_inputs


def write_integers(
    module: nn.Module, path: str | Path, data: Any, target: str | Target = "onnxruntime"
) -> Path:  # fmt: skip
    """Writes what `lessen.apply(model, LSQ(activations=8), train_data)` made as a file of the target.

    Weights are stored with the bits and steps that they were trained at; activations are quantized to 8 bits in the
    ranges that training learned, and in calibrated ones where the runtime quantizes more of them.

    Args:
        module: a network that quantization-aware training left.
        data: samples to calibrate the remaining ranges on.
        target: "onnxruntime" or "openvino".

    Raises:
        LessenError: the network was not trained so, or at fewer bits of activations than integer kernels read.
    """
    found = getattr(module, "quantized", None)
    if not isinstance(found, Quantized):
        raise LessenError("this network was not trained quantization-aware", where=type(module).__name__,
                          mend="make it by lessen.apply(model, LSQ(bits=8, activations=8), train_data)")  # fmt: skip
    plain = copy.deepcopy(module)
    remove_inputs(plain)
    part = load_data(data, like=example_like(load(plain))).calibration
    inputs = next(part.batches(2)).inputs
    traced = trace(load(plain).module, inputs)
    layers = {layer.name: layer for layer in traced.layers}
    treatments = {n: Treatment(None, 8 if n in found.inputs else None) for n in layers}
    made = Compressed(plain, layers, found.codings, treatments, inputs=found.inputs)
    return Exporter(target_named(target), Bench(plain, traced, {}), inputs, part).write(made, Path(path))
