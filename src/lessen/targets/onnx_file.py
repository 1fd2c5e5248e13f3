"""What the targets that read ONNX files have in common: bytes, ranges, writing."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ..codings import Coding, Grid
from ..errors import LessenError
from ..models.layer import Layer
from . import trial
from .coded import Coded
from .decode import NODES, matrix_bytes
from .graph import in_pieces
from .lowrank import expanded
from .packing import code_bytes
from .placement import Rules
from .qdq import quantized
from .ranges import Range, Rule
from .weights import fits_int8, int8_matrix

HARDLY, NEGLIGIBLE = 1.26, 1e-4  # as much more noise (1 dB), or less than this share of the outputs, is worth the time


def nbytes(layer: Layer, coding: Coding) -> int:
    """Bytes of a weight in an ONNX file: as many bits a code as it has, its scales, its tables; float32 if none."""
    if isinstance(coding, Grid) and fits_int8(coding) and layer.kind != "recurrent":
        matrix = int8_matrix(coding)
        return code_bytes(coding.codes.numel(), matrix.bits) + 5 * coding.shape[0] + NODES
    return matrix_bytes(coding)


def ranges(
    model: ir.Model, coded: Coded, batches: Iterable[Sequence[Any]], rules: Rules, rule: Rule | None = None
) -> dict[str, Range]:
    """Activation ranges for everything that `quantized` will put a pair on; by trial where no rule is given."""
    model, coded = expanded(model, coded)
    if not rules.signed or rule is not None:
        return trial.ranges(model, coded, batches, rules, rule)
    batches = iter(batches)
    head = trial.first(batches)  # all that is looked at twice
    return _centered(model, coded, head, rules, trial.ranges(model, coded, itertools.chain(head, batches), rules, rule))


def _centered(
    model: ir.Model, coded: Coded, batches: Sequence[Sequence[Any]], rules: Rules, found: dict[str, Range]
) -> dict[str, Range]:
    """Ranges with zero in the middle, where the outputs hardly tell them from the others.

    If they do, those of single tensors that are nearly so already: what reads their codes as floats subtracts no zero
    (OpenVINO does it in an operator of its own: an eighth of an OCR detector's time).
    """
    centered = {name: r.centered for name, r in found.items()}
    if centered == found:
        return found
    plain, other = (trial.disturbance(model, coded, r, rules, batches) for r in (found, centered))
    if other <= max(HARDLY * plain, NEGLIGIBLE):
        return centered
    return {name: centered[name] if _hardly_wider(centered[name], r) else r for name, r in found.items()}


def _hardly_wider(centered: Range, r: Range) -> bool:
    """Whether the tensor's own noise, which goes with the square of the step, grows by no more than `HARDLY`."""
    return centered.scale**2 <= HARDLY * r.scale**2


def export(model: ir.Model, path: Path, coded: Coded | None, found: Mapping[str, Range], rules: Rules) -> Path:
    """Writes the float graph, or the one with the plan in it."""
    return write_whole(Path(path), in_pieces(model if coded is None else quantized(model, coded, found, rules)))


def write_whole(path: Path, content: bytes | Iterable[bytes]) -> Path:
    """The file appears complete or not at all; what was there before stays until then."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.writelines([content] if isinstance(content, bytes) else content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        mend = "free space or give another --out"
        raise LessenError(f"can't be written: {error.strerror}", where=str(path), mend=mend) from error
    return path
