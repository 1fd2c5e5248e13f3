"""`OnnxModule`: an ONNX model as a torch module, and back."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from onnx.inliner import inline_local_functions
from torch import nn

from ...errors import LessenError
from . import graph, rewrite, write
from .build import Builder
from .gates import gather_gates
from .program import Program
from .read import MEND, read_model
from .slots import TRANSPOSED
from .values import NotNative, torch_dtype

_DAMAGE = (ValueError, TypeError, KeyError, IndexError, RuntimeError, AttributeError, OverflowError, NotNative,
           AssertionError, OSError)  # fmt: skip


class Template:
    """The model as it was read, without the weights that torch holds; never changed, shared by copies."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model

    def __deepcopy__(self, memo: dict[int, Any]) -> Template:
        return self


class OnnxModule(nn.Module):
    """An ONNX graph that torch runs; made by `load_onnx`.

    Nodes with weights are ordinary torch modules (`nn.Conv2d`, `nn.Linear`, ...), so they can be changed, trained,
    pruned or parametrized in place; other float constants are parameters of this module. `constants` holds the
    small integer and scalar constants (the sizes of a Reshape, say) by name, and may be edited.

    Args:
        model: a checked model; it becomes this module's own.
        where: how messages name it.
    """

    def __init__(self, model: ir.Model, where: str = "model") -> None:
        super().__init__()
        graph.lift_constants(model)
        gather_gates(model)
        graph.hoist(model)
        graph.separate(model)
        builder = Builder(self, model, where)
        builder.make_layers()
        self._program: Program = builder.program(model.graph)
        self.constants: dict[str, np.ndarray] = builder.parts.constants
        self._slots, self._tied, self._owners = builder.parts.slots, builder.parts.tied, builder.parts.modules
        self._kinds = {path: type(self.get_submodule(path)) for path in self._owners.values()}
        inputs = [v for v in model.graph.inputs if not v.is_initializer()]
        self.input_names = tuple(v.name or "" for v in inputs)
        self.output_names = tuple(v.name or "" for v in model.graph.outputs)
        self.input_shapes = tuple(_shape(v) for v in inputs)
        self.input_dtypes = tuple(_dtype(v) for v in inputs)
        self.opset = int(model.opset_imports.get("", 0))
        write.strip(model, self._slots)
        self._template = Template(model)
        self.eval()

    @property
    def opaque(self) -> list[tuple[str, str, str]]:
        """(node, operator, why) of each node that ONNX Runtime runs; no gradient passes those."""
        return [(s.where, s.a.op, s.reason) for s in self._program.walk() if s.reason]

    @property
    def has_branches(self) -> bool:
        """Whether the data picks what runs: an export of this module would keep one branch only."""
        return any(step.branches for step in self._program.walk())

    def forward(self, *inputs: Any) -> Any:
        """Run on inputs in the graph's order; one tensor, or a tuple of as many as the graph has outputs."""
        names = self._program.inputs
        if len(inputs) != len(names):
            raise LessenError(f"{len(inputs)} inputs given, the model takes {len(names)}",
                              mend=f"pass them in this order: {', '.join(self.input_names)}")  # fmt: skip
        device = next((v.device for v in inputs if isinstance(v, torch.Tensor)), torch.device("cpu"))
        with contextlib.nullcontext() if device.type == "cpu" else device:  # for what nodes make from nothing
            outputs = [write.as_output(v) for v in self._program.run(self, dict(zip(names, inputs)))]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def constants_for(self, program: Program) -> Iterator[tuple[str, Any]]:
        """The initializers that a program reads, as they are now."""
        for key in program.reads:
            if key in self._slots:
                yield key, self._slots[key].tensor(self)
            elif key in self.constants:
                yield key, self.constants[key]

    def initializer_of(self, parameter_name: str) -> tuple[str, bool]:
        """The initializer that a parameter is written to, and whether it is transposed there.

        A recurrent layer's parameters are slices of one initializer [directions, rows, columns]. Parameters that share
        an initializer are tied: they are one object, and must stay one to be written.

        Raises:
            LessenError: no such parameter.
        """
        values = graph.values(self._template.model)
        key = self._tied.get(parameter_name)
        for k, slot in self._slots.items():
            if k == key or parameter_name in slot.paths:
                return values[k].name or "", slot.layout == TRANSPOSED
        nodes = graph.nodes(self._template.model)
        for number, path in self._owners.items():
            if parameter_name == f"{path}.bias" and self.get_submodule(path).bias is not None:
                return rewrite.new_bias(nodes[number]), False  # the file had none
        raise LessenError(f"no initializer holds {parameter_name!r}", mend="use a name of named_parameters()")

    def to_onnx(self) -> ir.Model:
        """The graph with the present weights; nodes, names and dynamic axes are those that were read.

        Raises:
            LessenError: a module was replaced by one that has no ONNX form here.
        """
        return write.written(self, self._template.model, self._slots, self._owners, self._kinds)


def _shape(value: ir.Value) -> tuple[int | str | None, ...] | None:
    if value.shape is None:
        return None
    return tuple(d if isinstance(d, int) else d.value for d in value.shape)


def _dtype(value: ir.Value) -> torch.dtype | None:
    try:
        return None if value.dtype is None else torch_dtype(value.dtype.value)
    except NotNative:
        return None


def load_onnx(path: str | Path) -> OnnxModule:
    """An ONNX file of any framework as a torch module, in eval mode.

    The file is not trusted: sizes are checked before memory is taken, and external data must lie in its folder.

    Args:
        path: the .onnx file.

    Raises:
        LessenError: the file is missing, damaged, hostile, or its weights hold NaN or infinite numbers.
    """
    talk = logging.getLogger("onnx_ir")
    level = talk.level
    try:
        talk.setLevel(logging.CRITICAL)  # what it would tell of a damaged file, the error below tells
        return _load(Path(path))
    except LessenError:
        raise
    except _DAMAGE as error:
        what = f"the model is damaged ({type(error).__name__}: {error})"
        raise LessenError(what, where=str(path), mend=MEND) from error
    finally:
        talk.setLevel(level)


def _load(path: Path) -> OnnxModule:
    proto = read_model(path)
    if proto.functions:
        proto = inline_local_functions(proto)
    model = ir.serde.deserialize_model(proto)
    ir.external_data.set_base_dir(model.graph, path.parent.resolve())
    del proto
    return OnnxModule(model, str(path))
