"""Opening a `.lessen` file: into the original class, or without it, as the graph that it carries."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..codings.container import Package, read_lessen
from ..errors import LessenError, extra
from .layer import KINDS, Layer

GRAPH = "graph:"  # prefix of tensors that only the graph knows
SCALE = "scale:"  # prefix of what a smoothed weight is divided by, column by column, to give the parameter


def layout_of(layer: Layer) -> dict[str, Any]:
    """What turns a matrix back into the parameter, as JSON values."""
    return {"kind": layer.kind, "out_axis": layer.out_axis, "groups": layer.groups, "shape": list(layer.weight.shape)}


def parameter_of(package: Package, name: str) -> Tensor:
    """A coded parameter as the original class holds it."""
    return weight_of(package, name, package.others.get(SCALE + name))


def weight_of(package: Package, name: str, scale: Tensor | None = None) -> Tensor:
    """A coded weight, decoded, in the parameter's own layout; its columns divided by `scale`."""
    layout = package.layouts.get(name, {})
    shape, kind = layout.get("shape"), layout.get("kind")
    axis, groups = layout.get("out_axis", 0), layout.get("groups", 1)
    matrix = package.codings[name].decode()
    whole = isinstance(shape, list) and all(isinstance(d, int) and d > 0 for d in shape)
    if not whole or kind not in KINDS or not isinstance(axis, int) or not isinstance(groups, int) or groups < 1:
        raise LessenError("its layout makes no sense", where=name, mend="the file is damaged: write it again")
    assert isinstance(shape, list)
    layer = Layer(name, str(kind), torch.empty(shape, device="meta"), axis, groups)
    if not 0 <= axis < len(shape) or matrix.numel() != layer.weight.numel() or shape[0] % groups:
        raise LessenError(f"a matrix {tuple(matrix.shape)} does not fit a parameter {shape}", where=name)
    if scale is not None:
        if scale.shape != matrix.shape[1:] or not bool((scale > 0).all()):
            raise LessenError("its scales don't fit its weight", where=name, mend="the file is damaged: write it again")
        matrix = matrix / scale
    return layer.from_matrix(matrix)


def load_into(module: nn.Module, path: str | Path) -> nn.Module:
    """Puts the weights of a `.lessen` file into the network they came from; a copy, edits (removed channels) included.

    Args:
        module: the original class, with any weights.
        path: the file.

    Raises:
        LessenError: the file is damaged, or made from another network.
    """
    from .surgery.edits import Edit, Setting, apply_edits

    package = read_lessen(path)
    edits = [_edit(e, Edit, Setting) for e in package.edits]
    twin = apply_edits(module, edits)
    for gone in package.info.get("folded", []):
        parent, _, child = str(gone).rpartition(".")
        setattr(twin.get_submodule(parent), child, nn.Identity())
    values = {k: v for k, v in package.others.items() if not k.startswith((GRAPH, SCALE))}
    values |= {name: parameter_of(package, name) for name in package.codings}
    _give_biases(twin, values)
    missing, unknown = twin.load_state_dict(values, strict=False)
    if missing or unknown:
        what = f"lacks {missing[0]!r}" if missing else f"has {unknown[0]!r}, which the network has not"
        raise LessenError(f"the file {what}", where=str(path), mend="give the network that the file was made from")
    return twin.eval()


def _edit(values: Mapping[str, Any], edit: type, setting: type) -> Any:
    if "kept" in values:
        return edit(str(values["path"]), int(values["dim"]), tuple(int(i) for i in values["kept"].tolist()))
    value = values["value"]
    return setting(str(values["path"]), str(values["name"]), tuple(value) if isinstance(value, list) else value)


def _give_biases(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """A layer that swallowed a batch norm has a bias that its class did not give it."""
    for name, value in values.items():
        path, _, leaf = name.rpartition(".")
        if leaf == "bias" and path in dict(module.named_modules()):
            owner = module.get_submodule(path)
            if getattr(owner, "bias", value) is None:
                owner.bias = nn.Parameter(torch.zeros_like(value))


def graph_bytes(path: str | Path) -> bytes:
    """The ONNX model in a `.lessen` file, every weight decoded.

    Raises:
        LessenError: the file is damaged or carries no graph.
    """
    package = read_lessen(path)
    onnx = extra("onnx", "onnxruntime")
    if package.graph is None:
        raise LessenError(
            "carries no graph",
            where=str(path),
            mend="lessen.load_into(network, path) puts its weights into the original class",
        )
    try:
        model = onnx.load_model_from_string(package.graph)
    except Exception as error:
        raise LessenError(f"its graph can't be read: {error}", where=str(path)) from error
    for entry in package.info.get("initializers", []):
        model.graph.initializer.append(onnx.numpy_helper.from_array(_array(package, entry), str(entry["name"])))
    return bytes(model.SerializeToString(deterministic=True))


def _array(package: Package, entry: Mapping[str, Any]) -> np.ndarray:
    if "layer" not in entry:
        return package.others[GRAPH + str(entry["name"])].numpy()
    name = str(entry["layer"])
    if name not in package.codings:
        raise LessenError("the graph asks for a weight that is not in the file", where=name)
    return np.ascontiguousarray(weight_of(package, name).numpy().transpose(entry["permuted"]))


def load_packed(path: str | Path) -> nn.Module:
    """The network in a `.lessen` file, without its original class."""
    from .onnx_import import load_onnx

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        file.write_bytes(graph_bytes(path))
        return load_onnx(file)


def unpack_file(path: str | Path, out: str | Path) -> Path:
    """Decodes a `.lessen` file into a plain ONNX file, written whole or not at all."""
    import os

    out = Path(out)
    if out.suffix.lower() != ".onnx":
        raise LessenError("must end in .onnx", where=str(out))
    content = graph_bytes(path)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        os.replace(part, out)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise LessenError(f"can't be written: {error.strerror}", where=str(out)) from error
    return out
