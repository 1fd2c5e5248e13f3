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
from .placement import Placement, Rules
from .qdq import activations, quantized
from .ranges import Range, Rule
from .weights import fits_int8, int8_matrix

HARDLY, NEGLIGIBLE = 1.26, 1e-4  # as much more noise (1 dB), or less than this share of the outputs, is worth the time
FEW = 8  # ranges that are tried one by one


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
    """Ranges with zero in the middle, as far as the outputs hardly tell them from the others.

    Of all tensors; else of those that are nearly so already, of linear layers' inputs and of what convolutions of
    several positions read, one set after the other. What reads codes with an offset as floats subtracts it (OpenVINO
    does it in an operator of its own: an eighth of an OCR detector's time), what multiplies with them takes it out
    again: its linear layers take 1.5 times as long, its convolutions 1.4 times, but those of one position no longer.
    """
    centered = {name: r.centered for name, r in found.items()}
    if centered == found:
        return found

    def told(ranges: dict[str, Range]) -> float:
        return trial.disturbance(model, coded, ranges, rules, batches)

    most = max(HARDLY * told(found), NEGLIGIBLE)
    if told(centered) <= most:
        return centered
    nearly = [n for n, r in found.items() if centered[n] != r and _hardly_wider(centered[n], r)]
    made = found
    for names in [*_apart(nearly), *_that_pay(activations(model, coded, rules))]:
        tried = made | {n: centered[n] for n in names}
        if tried != made and told(tried) <= most:
            made = tried
    return made


def _apart(names: Sequence[str]) -> list[list[str]]:
    """One by one if they are few: what every picture shows alike is rounded well by one step and badly by the next."""
    return [[n] for n in names] if len(names) <= FEW else [list(names)]


def _that_pay(placement: Placement) -> tuple[frozenset[str], ...]:
    """Tensors that linear layers read, then what convolutions of several positions do, with all of the same scale."""
    found = []
    for pay in (_is_linear, _sums_positions):
        leaders = {placement.find(n) for n, readers in placement.readers.items() if any(pay(r) for r, _ in readers)}
        found.append(frozenset(n for n in placement.tensors if placement.find(n) in leaders))
    return tuple(dict.fromkeys(found))


def _is_linear(node: ir.Node) -> bool:
    return node.op_type in ("MatMul", "Gemm")


def _sums_positions(node: ir.Node) -> bool:
    weight = node.inputs[1] if node.op_type == "Conv" and node.attributes.get_int("group", 1) == 1 else None
    return weight is not None and weight.shape is not None and any(d != 1 for d in weight.shape[2:])


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
