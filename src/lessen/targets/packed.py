"""Target `packed`: the smallest file; decoded when it is opened, computed in float32."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from ..codings import Coding
from ..codings.container import Package, to_bytes
from ..codings.entropy import estimated_size
from ..models.layer import Layer
from ..models.packed import GAIN, GRAPH, graph_bytes, layout_of
from .coded import Coded
from .graph import array_of, copied, in_pieces, ort_session
from .locate import locate_all
from .onnx_file import write_whole
from .ort import FLOAT, session_of
from .ranges import Range
from .recurrent import Place, places
from .target import Events, Kernels, Session


@dataclass(frozen=True)
class Packed:
    """A `.lessen` file, for storage and transport. It is run by ONNX Runtime after decoding."""

    name: str = field(default="packed", init=False)
    suffix: str = field(default=".lessen", init=False)

    @property
    def likes(self) -> Mapping[str, int]:
        return {"float": 16}

    @property
    def executes(self) -> Mapping[str, tuple[int, ...]]:
        return {}

    def nbytes(self, layer: Layer, coding: Coding) -> int:
        """Entropy-coded size, within half a per cent."""
        return estimated_size(coding)

    def ranges(self, model: ir.Model, coded: Coded, batches: Iterable[Sequence[Any]]) -> dict[str, Range]:
        return {}

    def export(self, model: ir.Model, path: Path, coded: Coded | None, ranges: Mapping[str, Range]) -> Path:
        """A `.lessen` file that needs no class to be opened; without `coded` the float ONNX file, to compare with."""
        return write_whole(Path(path), in_pieces(model) if coded is None else to_bytes(package_of(model, coded)))

    def onnx(self, path: Path) -> bytes:
        """The ONNX model inside."""
        content = Path(path).read_bytes() if Path(path).is_file() else b""
        return content if content[:1] == b"\x08" and content[8:9] != b"{" else graph_bytes(path)

    def session(self, path: Path, threads: int = 0) -> Session:
        return session_of(self.onnx(path), str(path), threads)

    def profile(self, path: Path, inputs: Sequence[Tensor], runs: int) -> Events:
        return []

    def verify(self, path: Path) -> Kernels:
        ort_session(self.onnx(path))
        graph = ir.from_proto(_proto(self.onnx(path))).graph
        return Kernels((), tuple(f"{n.op_type} {n.name}" for n in graph if n.op_type in FLOAT))


def _proto(content: bytes) -> Any:
    import onnx

    return onnx.load_model_from_string(content)


def package_of(model: ir.Model, coded: Coded) -> Package:
    """The codings, the rest of the initializers, and the graph without either."""
    layers = tuple(x for x in coded.layers if x.name in coded.codings)
    sites = {s.value.name: s for s in locate_all(model, layers).values()}
    stacks = _stacks(model, layers)
    held = [s.layer for s in sites.values()] + [p.layer for stack in stacks.values() for p in stack]
    codings = {x.name: coded.codings[x.name] for x in held}
    initializers: list[dict[str, Any]] = []
    others: dict[str, Tensor] = {}
    for name, value in model.graph.initializers.items():
        site = sites.get(name)
        if site is not None:
            entry: dict[str, Any] = {"name": name, "layer": site.layer.name, "permuted": list(site.permuted)}
            if site.gain is not None and not bool((site.gain == 1).all()):  # the graph has a norm folded in
                others[GAIN + name] = site.gain
                entry["gained"] = True
            initializers.append(entry)
        elif name in stacks:
            stack = [{"layer": p.layer.name, "gates": list(p.order)} for p in stacks[name]]
            initializers.append({"name": name, "stack": stack})
        else:
            initializers.append({"name": name})
            others[GRAPH + name] = torch.from_numpy(value.const_value.numpy().copy())  # type: ignore[union-attr]
    bare = ir.to_proto(copied(model))
    del bare.graph.initializer[:]
    layouts = {x.name: layout_of(x) for x in held}
    graph = bytes(bare.SerializeToString(deterministic=True))
    return Package(codings, layouts, others, [], graph, {"initializers": initializers})


def _stacks(model: ir.Model, layers: tuple[Layer, ...]) -> dict[str, list[Place]]:
    """By initializer, the recurrent layers that are its directions, in order; only where all of them are coded."""
    found: dict[str, dict[int, Place]] = {}
    for place in places(model.graph, layers):
        value = place.node.inputs[place.index]
        if value is not None and value.name in model.graph.initializers:
            found.setdefault(str(value.name), {})[place.direction] = place
    sizes = {name: len(array_of(model.graph.initializers[name])) for name in found}  # type: ignore[arg-type]
    return {name: [p[d] for d in range(len(p))] for name, p in found.items() if set(p) == set(range(sizes[name]))}
