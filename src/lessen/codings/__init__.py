"""How one tensor is held: codings, the entropy coder, the file format."""

from typing import Any

from torch import Tensor

from ..errors import LessenError, did_you_mean
from .codebook import Codebook
from .coding import Coding
from .dense import Dense
from .grid import Grid
from .lowrank import LowRank
from .nearest import nearest
from .scaled import ScaledCodebook
from .sparse import Sparse

CODINGS = (Dense, Grid, Codebook, ScaledCodebook, Sparse, LowRank)

__all__ = [
    "CODINGS", "Codebook", "Coding", "Dense", "Grid", "LowRank", "ScaledCodebook", "Sparse", "coding_from_parts",
    "nearest",
]  # fmt: skip


def coding_from_parts(kind: str, parts: dict[str, Tensor], settings: dict[str, Any]) -> Coding:
    """The coding of this kind made of these parts; `LessenError` if the kind is unknown or a part is missing."""
    by_kind = {c.kind: c for c in CODINGS}
    if kind not in by_kind:
        raise LessenError(f"unknown coding {kind!r}", mend=did_you_mean(kind, by_kind))
    try:
        return by_kind[kind].from_parts(parts, settings)
    except KeyError as error:
        raise LessenError(f"a {kind} coding lacks its part or setting {error}") from error
