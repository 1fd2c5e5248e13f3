"""The two models side by side: opened, brought into one form, and their weights matched."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ..errors import LessenError
from ..job import Job, Options, open_job
from ..models import fold_batchnorm
from ..models.packed import unpack_file
from ..targets import float_onnx
from ..targets.graph import ort_session, serialized
from .absorbed import unswallowed
from .match import Match, matched, originals_of
from .normal import normal, with_outputs_named
from .units import QUANTIZERS, Unit, units_of

MEND = "give the float model first, then the file that was made of it"


@dataclass(frozen=True, eq=False)
class Pair:
    """A float model and what was made of it.

    Args:
        job: the float model with its data and metric.
        original: its file, or what it was exported to.
        compressed: the file that is examined, as the user gave it.
        runnable: the same as ONNX Runtime opens it.
        file: the compressed graph, ready to be mended and written.
        graph: the same with every quantized operator in the form that can be put back to float.
        units: of `graph`.
        matches: weights of `graph` and the original ones.
        unmatched: names of units whose weights have no counterpart.
    """

    job: Job
    original: Path
    compressed: Path
    runnable: Path
    float_graph: ir.Model
    file: ir.Model
    graph: ir.Model
    units: tuple[Unit, ...]
    matches: tuple[Match, ...]
    unmatched: tuple[str, ...]


def open_pair(original: Any, compressed: str | Path, data: Any, metric: Any = None, trust: bool = False) -> Pair:
    """Opens both models and the data and checks that they belong together.

    Raises:
        LessenError: a file is missing or damaged, nothing in `compressed` is quantized, or it is of another model.
    """
    path = artifact_of(compressed)
    _floating(original)
    job = open_job(original, data, None, "onnxruntime", None, Options(metric, trust=trust))
    folder = Path(tempfile.mkdtemp(prefix="lessen-"))
    runnable = unpack_file(path, folder / "compressed.onnx") if path.suffix == ".lessen" else path
    raw = read_onnx(runnable)
    source, graph = _float(job, folder, raw)
    return _paired(job, (source, path, runnable), graph, raw)


def _paired(job: Job, paths: tuple[Path, Path, Path], graph: ir.Model, raw: ir.Model) -> Pair:
    original, compressed, runnable = paths
    _same_doors(graph, raw, str(compressed))
    file, quantized, units, matches = _matched(graph, raw)
    _belong(units, matches, original, compressed)
    known = {(m.unit, m.weight.index) for m in matches}
    left = tuple(u.name for u in units if any((u.name, w.index) not in known for w in u.weights))
    rounded = tuple(u for u in units if u.reads or _changed(u, matches))
    if not rounded:
        raise LessenError("nothing in it is quantized: it computes with the original's weights", where=str(compressed),
                          mend=MEND)  # fmt: skip
    return Pair(job, original, compressed, runnable, graph, file, quantized, rounded, matches, left)


def _floating(original: Any) -> None:
    """An original that is quantized itself is most likely the wrong one of the two."""
    path = Path(original) if isinstance(original, str | Path) else None
    if path is None or path.suffix.lower() != ".onnx" or not path.is_file():
        return
    if any(n.op_type in QUANTIZERS for n in read_onnx(path).graph):
        what = "it is quantized itself: the two models don't belong together this way round"
        raise LessenError(what, where=str(path), mend=MEND)


def artifact_of(compressed: str | Path) -> Path:
    """The file itself, or the one in a folder that `compress` wrote."""
    path = Path(compressed)
    if path.is_dir():
        inside = [p for p in (path / "model.onnx", path / "model.lessen") if p.is_file()]
        if not inside:
            raise LessenError("no model.onnx in this folder", where=str(path), mend="give a folder that compress wrote")
        return inside[0]
    if not path.is_file():
        raise LessenError("no such file", where=str(path), mend="give an .onnx or .lessen file, or a run's folder")
    if path.suffix.lower() not in (".onnx", ".lessen"):
        raise LessenError(f"can't examine {path.suffix or 'a file without an ending'}", where=str(path),
                          mend="give an .onnx or .lessen file, or a run's folder")  # fmt: skip
    return path


def read_onnx(path: Path) -> ir.Model:
    """The graph of a file that ONNX Runtime accepts."""
    try:
        model = ir.load(path)
    except Exception as error:
        raise LessenError(f"not an ONNX file: {str(error).splitlines()[0][:200] if str(error) else error}",
                          where=str(path)) from error  # fmt: skip
    ort_session(str(path), intra_op_num_threads=1)
    if len(model.graph) == 0:
        raise LessenError("an ONNX file without any operators", where=str(path))
    return model


def _float(job: Job, folder: Path, raw: ir.Model) -> tuple[Path, ir.Model]:
    """The original's file, and its graph with batch norms folded if the compressed file has none."""
    origin = Path(job.model.origin)
    given = origin if origin.suffix.lower() == ".onnx" and origin.is_file() else None
    if given is None:
        module, _ = fold_batchnorm(job.model.module, job.model.inputs)
        graph = float_onnx(module, job.model.inputs)
        given = folder / "original.onnx"
        given.write_bytes(serialized(graph))
        return given, graph
    graph = ir.load(given)
    norms = [sum(n.op_type == "BatchNormalization" for n in m.graph) for m in (graph, raw)]
    if norms[0] <= norms[1]:
        return given, graph
    basic = folder / "basic.onnx"  # ONNX Runtime's own folding, as its quantizer's pre-processing does
    import onnxruntime

    level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    ort_session(str(given), optimized_model_filepath=str(basic), graph_optimization_level=level, intra_op_num_threads=1)
    return given, ir.load(basic)


def _same_doors(graph: ir.Model, raw: ir.Model, where: str) -> None:
    for word, a, b in (("inputs", graph.graph.inputs, raw.graph.inputs), ("outputs", graph.graph.outputs,
                                                                         raw.graph.outputs)):  # fmt: skip
        shapes = [[_sizes(v) for v in side] for side in (a, b)]
        if len(a) != len(b) or not all(_agree(x, y) for x, y in zip(*shapes, strict=True)):
            told = [", ".join(f"{v.name} {s}" for v, s in zip(side, each, strict=True)) for side, each in
                    zip((a, b), shapes, strict=True)]  # fmt: skip
            raise LessenError(f"the two models don't belong together: {word} {told[1]}, the original has {told[0]}",
                              where=where, mend=MEND)  # fmt: skip


def _sizes(value: ir.Value) -> list[Any]:
    return [d if isinstance(d, int) else "?" for d in value.shape] if value.shape is not None else []


def _agree(a: list[Any], b: list[Any]) -> bool:
    return not a or not b or (len(a) == len(b) and all("?" in (x, y) or x == y for x, y in zip(a, b, strict=True)))


Parts = tuple[ir.Model, ir.Model, tuple[Unit, ...], tuple[Match, ...]]


def _matched(graph: ir.Model, raw: ir.Model) -> Parts:
    file = normal(raw, stays=True)
    quantized = with_outputs_named(normal(file))
    nodes: Mapping[str, ir.Node] = {str(n.name): n for n in quantized.graph}
    matches = matched(units_of(quantized), originals_of(graph), dict(nodes))
    file = unswallowed(file, graph, matches)
    quantized = with_outputs_named(normal(file))
    return file, quantized, units_of(quantized), matches


def _changed(unit: Unit, matches: tuple[Match, ...]) -> bool:
    return any(m.unit == unit.name and not np.array_equal(m.exact, m.weight.array) for m in matches)


def _belong(units: tuple[Unit, ...], matches: tuple[Match, ...], original: Path, compressed: Path) -> None:
    mine = sum(len(u.weights) for u in units)
    if mine and len(matches) * 2 < mine:
        raise LessenError(
            f"the two models don't belong together: {len(matches)} of {mine} weights are alike",
            where=str(compressed), mend=MEND,
        )  # fmt: skip
    if not mine:
        raise LessenError("there is no weight in it that could be compared", where=str(compressed), mend=MEND)
