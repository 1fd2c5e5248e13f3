"""Networks that compute the same with weights that suffer less from rounding, each in one line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from .data import load_data
from .errors import LessenError
from .models import Layer, fold_and_trace, load
from .models.exact import Refolded
from .models.rescale import rescaled
from .models.rotate import rotated
from .quantize.awq import AWQ
from .quantize.table import check_whole
from .statistics import Statistics, collect


@dataclass(frozen=True)
class Rotate:
    """Hadamard rotations of all dimensions that allow it, folded into the weights (QuaRot: Ashkboos et al. 2024).

    Outliers are spread over all channels; the network computes the same, without an operation more (`lessen.rotated`).

    Args:
        seed: of the signs.

    >>> lessen.compress(model, data, "1%", using=(Rotate, Uniform))  # doctest: +SKIP
    """

    seed: int = 0

    def __post_init__(self) -> None:
        check_whole("Rotate", "seed", self.seed, 0, 2**63 - 1)

    @classmethod
    def offers(cls) -> tuple[Rotate, ...]:
        """One: other signs do as well."""
        return (cls(),)


REFOLDS = (AWQ, Rotate)


def activation_aware(model: Any, data: Any, how: AWQ | None = None) -> Refolded:
    """The network with the scales of AWQ folded in, wherever that costs no operation at run time.

    Args:
        model: an `nn.Module`, or whatever `lessen.compress` takes; not changed.
        data: samples to calibrate on, as `lessen.compress` takes them.
        how: bits and groups that the weights will be rounded to; `AWQ()`.

    Returns:
        `.module`, the copy; `.folded`, the layers whose columns were scaled; `.left`, those that could not be, and why.
    """
    return refold(model, data, how or AWQ())


def refold(model: Any, data: Any, how: AWQ | Rotate) -> Refolded:
    """The network with AWQ's scales or with rotations folded in; see `activation_aware`."""
    samples = load_data(data)
    opened = load(model).with_inputs(next(samples.calibration.batches(2)).inputs)
    module, _, traced = fold_and_trace(opened.module, opened.inputs)
    linear = () if isinstance(how, Rotate) else tuple(_linear(traced.layers).values())
    known = collect(module, linear, samples.calibration.batches(), fisher=0) if linear else {}
    return refolded(how, module, opened.inputs, traced.layers, known)


def refolded(
    how: AWQ | Rotate, module: nn.Module, inputs: tuple[Tensor, ...], layers: Iterable[Layer],
    known: Mapping[str, Statistics],
) -> Refolded:  # fmt: skip
    """A copy with other weights that computes the same.

    Args:
        module: in evaluation mode, batch norms folded; not changed.
        inputs: a sample or two, to run it with.
        layers: of the network.
        known: their statistics, by name; a rotation asks for none.

    Raises:
        LessenError: nothing can be folded, groups don't divide the columns, or it does not run in float64.
    """
    try:
        if isinstance(how, Rotate):
            return rotated(module, inputs, how.seed)
        return rescaled(module, inputs, partial(_scale, how, _linear(layers), known))
    except (RuntimeError, TypeError, NotImplementedError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise LessenError(f"it can't be run in float64, in which exactness is proved: {first}",
                          where=type(how).__name__, mend=f"leave {type(how).__name__} out") from error  # fmt: skip


def _linear(layers: Iterable[Layer]) -> dict[str, Layer]:
    """Those whose columns can be scaled."""
    return {x.name: x for x in layers if x.kind == "linear" and x.details.get("uses", 1) == 1}


def _scale(
    how: AWQ, linear: Mapping[str, Layer], known: Mapping[str, Statistics], names: Sequence[str]
) -> Tensor | None:
    if any(n not in linear or n not in known for n in names):
        return None
    return how.scale([linear[n] for n in names], known[names[0]])
