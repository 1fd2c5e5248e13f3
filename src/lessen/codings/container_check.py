"""What every coding in a `.lessen` file must obey; checked when one is written and when one is read."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import LessenError
from .coding import Coding
from .grid import Grid
from .lowrank import LowRank

_FLOATS = (torch.float16, torch.bfloat16, torch.float32)
_INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32)
# part -> types it may have; all of these are matrices
_MATRICES: dict[str, tuple[torch.dtype, ...]] = {
    "codes": (torch.int8, torch.int16),
    "scale": _FLOATS,
    "zero_point": _INTEGERS,
    "indices": (torch.uint8,),
    "centroids": _FLOATS,
    "mask": (torch.bool,),
}


def check_parts(parts: dict[str, Tensor]) -> None:
    """`LessenError` if a part has a type or rank it can't have, or is not finite."""
    for name, part in parts.items():
        types = _MATRICES.get(name.rsplit(".", 1)[-1])
        if types and (part.dtype not in types or part.ndim != 2):
            raise LessenError(f"can't be {part.dtype} {tuple(part.shape)}", where=name)
        if part.is_floating_point() and not bool(torch.isfinite(part).all()):
            raise LessenError("has values that are not finite", where=name)


def check_coding(coding: Coding) -> None:
    """`LessenError` if its matrix has no shape, or codes lie outside their bits."""
    if isinstance(coding, LowRank):
        check_coding(coding.left)
        check_coding(coding.right)
    elif isinstance(coding, Grid) and coding.codes.numel():
        low, high = int(coding.codes.min()), int(coding.codes.max())
        least, most = coding.ends
        if low < least or high > most:
            raise LessenError(f"codes from {low} to {high} don't fit {coding.bits} bits", where="codes")
    if len(coding.shape) != 2:
        raise LessenError(f"is not a matrix but {coding.shape}")
