"""One structured technique alone: a copy of the network that is narrower or shallower."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..errors import LessenError
from ..job import open_job
from ..prune.channels import Channels
from ..prune.depth import Depth
from ..report import Progress
from .prepare import prepared
from .shallow import fewer
from .widths import narrower


def structured(model: Any, technique: Channels | Depth, data: Any) -> nn.Module:
    """A copy of the network without the units or blocks that the technique chooses; the original is not touched.

    Args:
        model: an `nn.Module`, "file.py:factory", or a path.
        technique: `Channels(0.3)`, `Depth(2)`.
        data: calibration samples, as for `compress`.

    Returns:
        the network in evaluation mode, its batch norms folded, its shapes really smaller.

    Raises:
        LessenError: nothing can be removed; the reason, and where.
    """
    if not isinstance(technique, (Channels, Depth)):
        raise LessenError(f"{technique!r} removes no structure", where="structured", mend="Channels(0.3) or Depth(2)")
    given = model if isinstance(model, nn.Module) else None
    modes = [(m, m.training) for m in given.modules()] if given is not None else []
    try:
        job, progress = open_job(model, data, None, "onnxruntime", "channels"), Progress()
        bench = prepared(job, progress)
        if isinstance(technique, Channels):
            return narrower(job, bench, technique, progress).module
        return fewer(job, bench, technique, progress).module
    finally:
        for m, training in modes:
            m.training = training
