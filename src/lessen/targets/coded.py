"""`Coded`: a plan in the terms of a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from ..codings import Coding, Grid, LowRank
from ..models.layer import Layer
from .dynamic import can_be_live
from .locate import INTEGER_OPERATORS, Site
from .weights import fits_int8, is_float

Execution = Literal["int8", "static", "dynamic", "token", "weight", "float"]
CALIBRATED: tuple[Execution, ...] = ("int8", "static")
INTEGERS: tuple[Execution, ...] = (*CALIBRATED, "dynamic", "token")


@dataclass(frozen=True, eq=False)
class Coded:
    """How each layer is held, and how it is to be executed.

    Args:
        layers: the layers of the plan.
        codings: how each one's weight is held, by layer name; a layer without one stays as it is.
        execution: by layer name. "int8": integer weights and activations, whose range is fixed by calibration, or found
            in every batch where that is much better; "static": always fixed; "dynamic": found in every batch; "token":
            in every row of the input. "weight": stored small, computed in float. "float". What is not named gets
            `usual_execution`.
        fisher: of a layer's outputs, float [rows], by layer name; tells calibration which channels matter.
    """

    layers: tuple[Layer, ...]
    codings: Mapping[str, Coding]
    execution: Mapping[str, Execution] = field(default_factory=dict)
    fisher: Mapping[str, Tensor] = field(default_factory=dict)

    def how(self, site: Site) -> Execution:
        """What is asked for; but integer activations only where the operator has integer kernels."""
        name = site.layer.name
        coding = self.codings.get(name)
        asked = self.execution.get(name) or usual_execution(site, coding)
        fits = coding is None or (isinstance(coding, Grid) and fits_int8(coding))
        able = runs_integers(site) if asked in CALIBRATED else can_be_live(site)
        return "weight" if asked in INTEGERS and not (fits and able) else asked


def runs_integers(site: Site) -> bool:
    """All that read the weight have integer kernels, and none of them stands in a branch (pairs are not put there)."""
    inside = all(n.graph is site.value.graph for n, _ in site.uses)
    return bool(site.uses) and inside and all((n.op_type, i) in INTEGER_OPERATORS for n, i in site.uses)


def usual_execution(site: Site, coding: Coding | None) -> Execution:
    """Integers where the operator has integer kernels, weight-only elsewhere, float if it is held so."""
    if coding is None or is_float(coding):
        return "float"
    if isinstance(coding, LowRank):
        return usual_execution(site, coding.left)
    return "int8" if runs_integers(site) and isinstance(coding, Grid) else "weight"
