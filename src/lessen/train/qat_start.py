"""The post-training result that quantization-aware training starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from ..codings import Coding
from ..data import Part
from ..errors import LessenError
from ..models.layer import Layer
from ..models.put import put_matrix
from ..quantize import HalfSteps, Uniform
from ..statistics import Statistics, collect

SAMPLES = 512  # second moments and ranges settle by then


@dataclass(frozen=True, eq=False)
class Start:
    """Where training starts: the student already holds the decoded weights.

    Args:
        layers: by name.
        codings: of the quantized weights, by layer name.
        inputs: layers whose inputs are quantized.
        pruned: layers whose zeros stay zero.
        scales: of smoothed layers, [columns].
    """

    layers: Mapping[str, Layer]
    codings: Mapping[str, Coding]
    inputs: tuple[str, ...] = ()
    pruned: frozenset[str] = frozenset()
    scales: Mapping[str, Tensor] = field(default_factory=dict)


def rounded(student: nn.Module, layers: tuple[Layer, ...], part: Part, technique: HalfSteps | Uniform) -> Start:
    """Every layer on the technique's grid, rounded with error feedback, biases corrected; changes the student.

    Embeddings look rows up: they have no input to quantize.
    """
    statistics = collect(student, layers, part.head(SAMPLES).batches())
    codings: dict[str, Coding] = {}
    reasons = []
    for layer in layers:
        known = statistics.get(layer.name, Statistics())
        try:
            codings[layer.name] = technique.encode(layer, known)
        except LessenError as error:
            reasons.append(str(error))
            continue
        put_matrix(student, layer, codings[layer.name].decode(), known.mean)
    if not codings:
        raise LessenError("no layer can be quantized", mend=(reasons or ["there are no layers"])[0])
    by_name = {layer.name: layer for layer in layers}
    inputs = tuple(n for n in codings if by_name[n].kind != "embedding")
    return Start(by_name, codings, inputs)
