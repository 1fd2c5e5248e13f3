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
GAIN = "gain:"  # of the rows of a graph's weight
SCALE = "scale:"  # prefix of what a smoothed weight is divided by, column by column, to give the parameter


def layout_of(layer: Layer) -> dict[str, Any]:
    """What turns a matrix back into the parameter, as JSON values."""
    return {"kind": layer.kind, "out_axis": layer.out_axis, "groups": layer.groups, "shape": list(layer.weight.shape)}


def parameter_of(package: Package, name: str) -> Tensor:
    """A coded parameter as the original class holds it."""
    return weight_of(package, name, package.others.get(SCALE + name))


def weight_of(package: Package, name: str, scale: Tensor | None = None, gain: Tensor | None = None) -> Tensor:
    """A coded weight, decoded, in the parameter's own layout; columns divided by `scale`, rows times `gain`."""
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
    if gain is not None:
        if gain.shape != matrix.shape[:1] or not gain.is_floating_point():
            raise LessenError("its gains don't fit its weight", where=name, mend="the file is damaged: write it again")
        matrix = matrix * gain[:, None]
    return layer.from_matrix(matrix)


def load_into(module: nn.Module, path: str | Path) -> nn.Module:
    """Puts the weights of a `.lessen` file into the network they came from; a copy, edits (removed channels) included.

    Args:
        module: the original class, with any weights.
        path: the file.

    Raises:
        LessenError: the file is damaged, or made from another network.
    """
    package, mend = read_lessen(path), "give the network that the file was made from"
    values = {k: v for k, v in package.others.items() if not k.startswith((GRAPH, GAIN, SCALE))}
    try:
        twin = _edited(module, package)
        values |= {name: parameter_of(package, name) for name in package.codings}
        _give_biases(twin, values)
        missing, unknown = twin.load_state_dict(values, strict=False)
    except LessenError as error:
        raise LessenError(error.what, where=f"{path}: {error.where}", mend=error.mend or mend) from error
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:  # a stranger's file
        what = f"the file does not fit the network: {(str(error).splitlines() or [''])[-1].strip()}"
        raise LessenError(what, where=str(path), mend=mend) from error
    if missing or unknown:
        what = f"lacks {missing[0]!r}" if missing else f"has {unknown[0]!r}, which the network has not"
        raise LessenError(f"the file {what}", where=str(path), mend=mend)
    return twin.eval()


def _edited(module: nn.Module, package: Package) -> nn.Module:
    """A copy of the network with the file's structural changes made, batch norms that were folded away left out."""
    from .surgery.edits import Edit, Setting, apply_edits

    twin = apply_edits(module, [_edit(e, Edit, Setting) for e in package.edits])
    for gone in package.info.get("folded", []):
        parent, _, child = str(gone).rpartition(".")
        setattr(twin.get_submodule(parent), child, nn.Identity())
    return twin


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
    for entry in _entries(package, path):
        name = str(entry["name"])
        try:
            array = _array(package, entry)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:  # a LessenError is a ValueError
            what = error.what if isinstance(error, LessenError) else f"its description makes no sense ({error})"
            raise LessenError(what, where=f"{path}: {name}", mend="the file is damaged: write it again") from error
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return bytes(model.SerializeToString(deterministic=True))


def _entries(package: Package, path: str | Path) -> list[dict[str, Any]]:
    entries = package.info.get("initializers", [])
    if not isinstance(entries, list) or not all(
        isinstance(e, dict) and isinstance(e.get("name"), str) for e in entries
    ):
        raise LessenError("the list of the graph's weights is damaged", where=str(path), mend="write the file again")
    return entries


def _array(package: Package, entry: Mapping[str, Any]) -> np.ndarray:
    """An initializer: a layer's weight turned over, the recurrent layers of all directions, or a tensor as it is."""
    if "stack" in entry:
        return np.stack([_gates(_weight(package, part["layer"]), part["gates"]) for part in entry["stack"]])
    if "layer" in entry:
        gain = package.others[GAIN + entry["name"]] if entry.get("gained") else None
        return np.ascontiguousarray(_weight(package, entry["layer"], gain).transpose(entry["permuted"]))
    return package.others[GRAPH + str(entry["name"])].numpy()


def _weight(package: Package, name: Any, gain: Tensor | None = None) -> np.ndarray:
    if name not in package.codings:
        raise LessenError(f"the graph asks for the weight {name!r}, which is not in the file")
    return weight_of(package, str(name), gain=gain).numpy()


def _gates(weight: np.ndarray, order: list[int]) -> np.ndarray:
    """The rows by blocks of gates in another order."""
    blocks = np.split(weight, len(order))
    return np.concatenate([blocks[i] for i in order])


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
        mend = "free some space, or write it elsewhere"
        raise LessenError(f"can't be written: {error.strerror}", where=str(out), mend=mend) from error
    finally:
        part.unlink(missing_ok=True)
    return out
