"""`Dynamic`: weights and activations in eight bits, the range of the activations found while the network runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ..codings import Grid
from ..errors import LessenError
from ..models.layer import Layer
from ..statistics.statistics import Statistics
from .table import check_whole
from .uniform import Uniform

STEPS = 127  # on each side of zero


@dataclass(frozen=True)
class Dynamic:
    """Dynamic quantization: integer weights, and inputs rounded to 8 bits in a range that is found at run time.

    With `per="token"` each row of the input has a scale of its own, max|row| / 127; a token's result does not depend on
    what lies beside it, and outliers of one token cost the others nothing (ZeroQuant: Yao et al. 2022, sec. 4.1;
    LLM.int8: Dettmers et al. 2022). With `per="tensor"` one range serves the whole batch, which is quicker.
    LSTMs take that only (ONNX Runtime has a kernel), inputs and states rounded in every step. No calibration can miss a
    range; samples only tell how to round the weights (`Uniform`), and a few will do.

    Args:
        bits: 2 to 8, of the weights, one step for each output channel.
        per: "token" or "tensor", of the activations.

    >>> lessen.compress(model, data, "1%", using=Dynamic)  # doctest: +SKIP
    """

    bits: int = 8
    per: Literal["token", "tensor"] = "token"

    def __post_init__(self) -> None:
        check_whole("Dynamic", "bits", self.bits, 2, 8)
        if self.per not in ("token", "tensor"):
            raise LessenError(f"per={self.per!r}", where="Dynamic", mend='give "token" or "tensor"')

    @property
    def weights(self) -> Uniform:
        """How the weights are held."""
        return Uniform(self.bits)

    @property
    def activations(self) -> Literal["token", "dynamic"]:
        """How the inputs are rounded, in the words of a plan."""
        return "token" if self.per == "token" else "dynamic"

    def encode(self, layer: Layer, statistics: Statistics) -> Grid:
        """The layer's weight on its grid; `LessenError` for a layer whose inputs can't be rounded this way."""
        check_at_run_time(layer, self.activations)
        return self.weights.encode(layer, statistics)

    @classmethod
    def offers(cls) -> tuple[Dynamic, ...]:
        """Each token by itself, and the whole tensor."""
        return (cls(), cls(per="tensor"))


def check_at_run_time(layer: Layer, activations: object) -> None:
    """`LessenError` for a layer whose inputs no kernel rounds so at run time: "token" or "dynamic"."""
    if layer.kind == "linear" or (layer.kind == "recurrent" and activations == "dynamic"):
        return
    what = f"inputs are rounded at run time in linear layers only, this is {layer.kind}"
    mend = "let Uniform(8) do the others: --using dynamic,uniform"
    if layer.kind == "recurrent":
        what, mend = "a recurrent layer's inputs are rounded in every step, not in every token", 'per="tensor"'
    raise LessenError(what, where=layer.name, mend=mend)


def rounded_at_run_time(x: Tensor, per: str = "token") -> Tensor:
    """What integer kernels see of an input [..., columns]: 127 steps on each side of zero, of each row or of all."""
    sizes = x.detach().abs()
    reach = (sizes.amax(-1, keepdim=True) if per == "token" else sizes.amax()).clamp_min(2.0**-100)
    return (x / reach * STEPS).round() * (reach / STEPS)
