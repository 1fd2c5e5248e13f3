"""Back to ONNX: the graph that was read, with the weights that the torch module holds now."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx_ir as ir
from torch import Tensor, nn

from ...errors import LessenError
from . import graph, rewrite
from .slots import Slot
from .values import NotNative, to_host, to_tensor


def strip(model: ir.Model, slots: dict[str, Slot]) -> None:
    """Drop the data of what torch holds: a tensor of the same shape and type that takes no memory stays."""
    for key, value in graph.values(model).items():
        if key in slots and value.const_value is not None:
            old = value.const_value
            hollow = np.broadcast_to(np.zeros((), old.dtype.numpy()), tuple(old.shape.numpy()))
            value.const_value = ir.Tensor(hollow, dtype=old.dtype, name=old.name)
        elif value.const_value is not None:  # our own copy: the parsed file can go
            old = value.const_value
            if old.dtype != ir.DataType.STRING:
                value.const_value = ir.Tensor(old.numpy().copy(), dtype=old.dtype, name=old.name)


def as_output(value: Any) -> Any:
    """A graph output: numbers as tensors; what torch has no type for, strings and sequences as they are."""
    if not isinstance(value, np.ndarray):
        return value
    try:
        return to_tensor(value)
    except NotNative:
        return value


def written(
    network: Any, template: ir.Model, slots: dict[str, Slot], modules: dict[int, str], kinds: dict[str, type[nn.Module]]
) -> ir.Model:
    """See `OnnxModule.to_onnx`."""
    model = template.clone()
    values, nodes = graph.values(model), graph.nodes(model)
    changed = False
    live = dict(slots)
    for number, path in modules.items():
        module, node = network.get_submodule(path), nodes[number]
        if isinstance(module, kinds[path]):
            has_bias = any(f"{path}.bias" in slot.paths for slot in slots.values())
            changed |= rewrite.refresh(node, module, has_bias)
            continue
        changed, new = True, rewrite.replace(node, module, kinds[path])
        live = _moved(live, path, new)
    changed |= _fill(network, values, live)
    for key in slots.keys() - live.keys():
        _drop(values[key])
    for key, array in network.constants.items():
        if key in values:
            changed |= _put(values[key], ir.tensor(array))
    if changed:
        _forget_shapes(model)
    return model


def _moved(slots: dict[str, Slot], path: str, new: str | None) -> dict[str, Slot]:
    """The slots when a module's parameters are found at `path.new` ("" is the module itself), or nowhere (None)."""
    moved = {}
    for key, slot in slots.items():
        mine = any(p.startswith(path + ".") for p in slot.paths)
        if mine and new is not None:
            paths = tuple(f"{path}.{new}.{p[len(path) + 1 :]}" for p in slot.paths)
            slot = dataclasses.replace(slot, paths=paths)
        if not mine or new is not None:
            moved[key] = slot
    return moved


def _drop(value: ir.Value) -> None:
    if list(value.uses()):
        raise LessenError(f"initializer {value.name!r} has lost its parameter but is still read",
                          mend="keep the module that holds it")  # fmt: skip
    if value.graph is not None and value.name and value.name in value.graph.initializers:
        del value.graph.initializers[value.name]


def _fill(network: nn.Module, values: dict[str, ir.Value], slots: dict[str, Slot]) -> bool:
    changed = False
    for key, slot in slots.items():
        try:
            data = slot.tensor(network)
        except AttributeError:
            raise LessenError(f"the parameter {slot.paths[0]!r} is gone, initializer {values[key].name!r} needs it",
                              mend="set it to zeros instead of removing it") from None  # fmt: skip
        changed |= _put(values[key], tensor(data))
    return changed


def tensor(data: Tensor) -> ir.Tensor:
    """A copy of torch data for a graph."""
    return ir.Tensor(np.array(to_host(data.detach()), order="C"))


def _put(value: ir.Value, new: ir.TensorProtocol) -> bool:
    """Set an initializer; True if its shape is another now."""
    old = value.const_value
    new.name = value.name
    value.const_value = new
    same = old is not None and list(old.shape.numpy()) == list(new.shape.numpy())
    if not same:
        value.shape = ir.Shape(new.shape.numpy())
    return not same


def _forget_shapes(model: ir.Model) -> None:
    """Drop the recorded shapes between inputs and outputs: they no longer hold."""
    for part in graph.graphs(model.graph):
        for node in part:
            for value in node.outputs:
                if not value.is_graph_output():
                    value.shape = None
