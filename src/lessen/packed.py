"""Writing `model.lessen`: all that a target's packed file has, and what the original class needs to take it back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from .artifact import Exporter, coded_of
from .bench import Compressed
from .codings import Dense
from .codings.container import write_lessen
from .memory import give_back
from .models.packed import SCALE, layout_of
from .plan import Plan
from .targets.packed import package_of


def write_artifact(exporter: Exporter, compressed: Compressed, path: Path, plan: Plan) -> Path:
    """The file that runs; of the packed target the very file that is delivered, with what the original class needs."""
    if path.suffix == ".lessen":
        return write_packed(path, compressed, exporter.graph_of(compressed), plan)
    written = exporter.write(compressed, path)
    give_back()  # graphs refer to themselves: nobody else collects them soon
    return written


def write_packed(path: Path, compressed: Compressed, graph: ir.Model, plan: Plan) -> Path:
    """Writes the file, whole or not at all.

    Args:
        path: where.
        compressed: the network and its codings.
        graph: its float graph, coded weights as they were before coding.
        plan: its digest goes into the file.
    """
    compressed = _whole(compressed)
    package = package_of(graph, coded_of(compressed))
    if hasattr(compressed.module, "to_onnx"):  # it came as a graph and has no other class to go back to
        info = package.info | {"plan_sha256": plan.sha256(), "model_sha256": plan.model}
        write_lessen(path, replace(package, info=info))
        return path
    state = {
        k: v.detach().contiguous() for k, v in compressed.module.state_dict().items() if isinstance(v, torch.Tensor)
    }
    coded_elsewhere = _twins(compressed)
    plain = {k: v for k, v in state.items() if k not in compressed.codings and k not in coded_elsewhere}
    scales = {SCALE + k: v.contiguous() for k, v in compressed.scales.items()}
    info = {"plan_sha256": plan.sha256(), "model_sha256": plan.model, "folded": list(compressed.folded)}
    layouts = {name: layout_of(compressed.layers[name]) for name in compressed.codings}
    whole = replace(
        package, codings=dict(compressed.codings), layouts=layouts, others=plain | scales | package.others,
        edits=_edits(compressed), info=package.info | info,
    )  # fmt: skip
    write_lessen(path, whole)
    return path


def _whole(compressed: Compressed) -> Compressed:
    """With a coding for every layer: network and graph lay it out in their own ways, and the file holds it once."""
    parameters, codings = dict(compressed.module.named_parameters()), dict(compressed.codings)
    for name, layer in compressed.layers.items():
        parameter = parameters.get(name)
        if name in codings or parameter is None or parameter.dtype is not torch.float32:
            continue
        matrix, scale = layer.to_matrix(parameter.detach()), compressed.scales.get(name)
        codings[name] = Dense(matrix.contiguous() if scale is None else matrix * scale)
    return replace(compressed, codings=codings)


def _twins(compressed: Compressed) -> set[str]:
    """Other names of parameters that are coded under their first one."""
    named = dict(compressed.module.named_parameters(remove_duplicate=False))
    coded = {id(named[name]) for name in compressed.codings if name in named}
    return {n for n, p in named.items() if id(p) in coded and n not in compressed.codings}


def _edits(compressed: Compressed) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for edit in compressed.edits:
        values = dict(vars(edit))
        if "kept" in values:
            values["kept"] = torch.tensor(values["kept"], dtype=torch.int32)
        made.append({k: list(v) if isinstance(v, tuple) else v for k, v in values.items()})
    return made
