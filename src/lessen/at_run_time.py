"""Inputs of linear layers rounded while a torch network runs, as integer kernels round them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from .models import Layer
from .plan import Treatment
from .quantize.dynamic import rounded_at_run_time

log = logging.getLogger("lessen")


@dataclass(frozen=True)
class RoundInput:
    """A forward pre-hook: the layer reads its input as it is when it has been rounded to 8 bits.

    Args:
        per: "token" (a range for each row) or "tensor" (one for the whole batch).
    """

    per: Literal["token", "tensor"]

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (rounded_at_run_time(args[0], self.per), *args[1:])


def round_inputs(module: nn.Module, layers: Mapping[str, Layer], treatments: Mapping[str, Treatment]) -> None:
    """Puts a hook before each `nn.Linear` whose treatment rounds inputs at run time; a warning names the others."""
    for name, treatment in treatments.items():
        if not treatment.at_run_time:
            continue
        owner = module.get_submodule(layers[name].module)
        if isinstance(owner, nn.Linear):
            owner.register_forward_pre_hook(RoundInput("token" if treatment.activations == "token" else "tensor"))
        else:
            log.warning("%s is read by %s: its input is rounded in a file, not in torch", name, type(owner).__name__)
