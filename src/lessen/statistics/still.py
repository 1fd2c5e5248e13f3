"""A network held still while it is looked at, and left as it was found."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


@contextlib.contextmanager
def still(model: nn.Module, recurrent: bool = False) -> Iterator[None]:
    """Evaluation mode, all parameters frozen, no fused kernels that hide a weight; all as before afterwards."""
    modes = [(m, m.training) for m in model.modules()]
    fusing = [m for m in model.modules() if getattr(m, "fused", False) is True]  # imported recurrent layers
    grads = [(p, p.requires_grad) for p in model.parameters()]
    fused, mkldnn = torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.set_flags()
    try:
        for m, _ in modes:
            m.training = False  # a network that torch.export made refuses eval()
        model.requires_grad_(False)
        for m in fusing:
            m.fused = False  # type: ignore[assignment]
        torch.backends.mha.set_fastpath_enabled(False)
        if recurrent:
            torch.backends.mkldnn.set_flags(_enabled=False)
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        torch.backends.mkldnn.set_flags(_enabled=mkldnn[0])
        for m, training in modes:
            m.training = training
        for m in fusing:
            m.fused = True  # type: ignore[assignment]
        for p, requires in grads:
            p.requires_grad_(requires)
