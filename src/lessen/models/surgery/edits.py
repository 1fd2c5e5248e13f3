"""What was done to a model, as plain data that can be stored and done again."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lessen.errors import LessenError
from lessen.models.groups.trace import tensor_names
from lessen.models.surgery.attention import CLASSES
from lessen.models.surgery.passed import blank, pass_by


@dataclass(frozen=True)
class Edit:
    """Keep only the indices `kept` of dimension `dim` of the parameter or buffer `path`."""

    path: str
    dim: int
    kept: tuple[int, ...]


@dataclass(frozen=True)
class Setting:
    """Attribute `name` of module `path` becomes `value`: an integer, a tuple of them, or (name "class") a class name.

    Name "passed" takes the module out: `value` is (place of the argument that goes on, length of the tuple or 0); place
    -1: it gives a zero. Name "blank": zeros of width `value` stand where it was.
    Name "graph" says that only an exported graph of the network could be edited: it can't be done again to the class.
    `name` may reach into an object that the module holds ("config.num_heads"): the module gets a copy of its own.
    """

    path: str
    name: str
    value: Any


def slice_tensors(model: nn.Module, edits: Iterable[Edit]) -> None:
    """Cut parameters and buffers in place; shared ones are cut once and stay shared."""
    edits = list(edits)
    tensors, weights = tensor_names(model), _parametrized(model, edits)
    for edit in edits:
        if edit.path not in tensors:
            raise LessenError(f"no parameter or buffer {edit.path!r}", where="edits", mend="use the original model")
        tensor = tensors[edit.path]
        if edit.dim >= tensor.ndim or not edit.kept or max(edit.kept) >= tensor.shape[edit.dim] or min(edit.kept) < 0:
            raise LessenError(
                f"indices do not fit shape {tuple(tensor.shape)}, dimension {edit.dim}",
                where=edit.path,
                mend="use the model that the edits were made for",
            )
        _replace(tensor, tensor.detach().index_select(edit.dim, torch.tensor(edit.kept, device=tensor.device)))

    for module, name, value in weights:
        setattr(module, name, value)  # through the parametrization's inverse: a norm is that of the weight as it is now


def _parametrized(model: nn.Module, edits: list[Edit]) -> list[tuple[nn.Module, str, Tensor]]:
    """Weights computed from other tensors (weight norm), cut as they must come out."""
    found = []
    for path, module in model.named_modules():
        chains = getattr(module, "parametrizations", None)
        for name, chain in chains.items() if isinstance(chains, nn.ModuleDict) else ():
            prefix = f"{path}.parametrizations.{name}.".lstrip(".")
            full = getattr(module, name).detach()
            own = [e for e in edits if e.path.startswith(prefix)]
            same = [e for e in own if getattr(chain, e.path.removeprefix(prefix)).shape == full.shape]
            for edit in same:
                full = full.index_select(edit.dim, torch.tensor(edit.kept, device=full.device))
            if same:
                found.append((module, name, full))
    return found


def _replace(tensor: Tensor, value: Tensor) -> None:
    tensor.data = value.contiguous()
    tensor.grad = None


def apply_settings(model: nn.Module, settings: Iterable[Setting]) -> None:
    """Set attributes of modules."""
    modules = dict(model.named_modules())
    for setting in settings:
        if setting.path not in modules:
            raise LessenError(f"no module {setting.path!r}", where="edits", mend="use the original model")
        module = modules[setting.path]
        if setting.name == "passed":
            place, outputs = (
                setting.value if isinstance(setting.value, tuple) and len(setting.value) == 2 else (None, 0)
            )
            pass_by(model, setting.path, place, outputs)  # type: ignore[arg-type]
            continue
        if setting.name == "blank":
            blank(model, setting.path, setting.value)
            continue
        if setting.name == "class":
            if setting.value not in CLASSES:
                raise LessenError(f"unknown class {setting.value!r}", where=setting.path, mend="update lessen")
            module.__class__ = CLASSES[setting.value]
            continue
        owner, _, name = setting.name.rpartition(".")
        target: Any = module
        if owner:
            target = copy.copy(getattr(module, owner))
            setattr(module, owner, target)
        if not isinstance(getattr(target, name, None), (int, tuple, list, torch.Size)):
            raise LessenError(f"no number {setting.name!r}", where=setting.path, mend="use the original model")
        old = getattr(target, name)
        setattr(target, name, type(old)(setting.value) if isinstance(old, (tuple, list)) else setting.value)


def apply_edits(model: nn.Module, edits: Iterable[Edit | Setting]) -> nn.Module:
    """A copy of the original model with the edits done again.

    Raises:
        LessenError: an edit does not fit this model, or was made to an exported graph of it.
    """
    edits = list(edits)
    if any(isinstance(e, Setting) and e.name == "graph" for e in edits):
        raise LessenError(
            f"{type(model).__name__} has sizes in its code, so an exported graph of it was narrowed, not the class",
            where="edits",
            mend="replay the plan, or run the ONNX graph that the file holds",
        )
    edited = copy.deepcopy(model)
    slice_tensors(edited, (e for e in edits if isinstance(e, Edit)))
    apply_settings(edited, (e for e in edits if isinstance(e, Setting)))
    return edited
