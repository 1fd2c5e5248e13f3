"""What a unit reads in the network coded so far, and what it should put out: the float network's own outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..data import Batch
from ..statistics import error_of_outputs, sampled_labels
from .blocks_units import Unit
from .distill import first, is_classes

_ROOM = 2**28  # bytes of inputs and outputs of one unit that are held
_FLOOR = 0.1  # of the mean: outputs that the loss hardly depends on still count for something


@dataclass(frozen=True, eq=False)
class Seen:
    """One batch at a unit: its arguments in the coded network, and its output in the float one."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    target: Tensor


def seen(coded: nn.Module, model: nn.Module, unit: Unit, batches: Sequence[Batch]) -> list[Seen]:
    """As many batches as there is room for, at least two."""
    found: list[Seen] = []
    used = 0
    with torch.no_grad():
        for batch in batches:
            args, kwargs = _arguments(coded, unit.modules[0], batch)
            found.append(Seen(args, kwargs, _output(model, unit.modules[-1], batch)))
            held = [t for t in (*args, *kwargs.values(), found[-1].target) if isinstance(t, Tensor)]
            used += sum(t.numel() * t.element_size() for t in held)
            if used > _ROOM and len(found) > 1:
                break
    return found


def run(model: nn.Module, unit: Unit, weights: Mapping[str, Tensor], at: Seen) -> Tensor:
    """The unit's output with these weights (by parameter name) in place of the model's."""
    out: Any = None
    for n, path in enumerate(unit.modules):
        inner = {k[len(path) + 1 :] if path else k: w for k, w in weights.items() if not path or _in(k, path)}
        args, kwargs = (_copied(at.args), dict(at.kwargs)) if n == 0 else ((out,), {})
        out = functional_call(model.get_submodule(path), inner, args, kwargs)
    return first(out)


def importance(model: nn.Module, unit: Unit, batches: Iterable[Batch]) -> Tensor | None:
    """Mean squared gradient of the loss by each output of the unit, 1 in the mean: the diagonal of its Fisher.

    [1, ...] like one sample's output; None where outputs differ in shape, or the loss does not depend on them.
    Labels are drawn from the float network's own answer (Li et al. 2021, eq. 10, weigh by the same diagonal).
    """
    total, count, shape = None, 0, None
    for batch in batches:
        grads = _gradient(model, unit.modules[-1], batch)
        if grads is None or (shape is not None and grads.shape[1:] != shape):
            return None
        shape, count = grads.shape[1:], count + len(grads)
        squares = grads.double().square().sum(0, keepdim=True)
        total = squares if total is None else total + squares
    if total is None or not bool(torch.isfinite(total).all()) or float(total.sum()) == 0:
        return None
    weights = total / count
    return (weights / weights.mean() * (1 - _FLOOR) + _FLOOR).float()


class _Enough(Exception):
    """No error: nobody needs the rest of the pass."""


def _arguments(model: nn.Module, path: str, batch: Batch) -> tuple[tuple[Any, ...], dict[str, Any]]:
    held: list[Any] = []

    def stop(_: nn.Module, args: Any, kwargs: Any) -> None:
        held.append((args, kwargs))
        raise _Enough

    _until(model, batch, model.get_submodule(path).register_forward_pre_hook(stop, with_kwargs=True))
    return held[0]


def _output(model: nn.Module, path: str, batch: Batch) -> Tensor:
    held: list[Tensor] = []

    def stop(_m: nn.Module, _a: Any, out: Any) -> None:
        held.append(first(out).clone())
        raise _Enough

    _until(model, batch, model.get_submodule(path).register_forward_hook(stop))
    return held[0]


def _until(model: nn.Module, batch: Batch, handle: Any) -> None:
    try:
        model(*batch.inputs)
    except _Enough:
        pass
    finally:
        handle.remove()


def _gradient(model: nn.Module, path: str, batch: Batch) -> Tensor | None:
    held: list[Tensor] = []

    def leaf(_m: nn.Module, _a: Any, out: Any) -> Any:
        held.append(first(out).detach().requires_grad_())
        return held[0] if isinstance(out, Tensor) else _with_first(out, held[0])

    with ExitStack() as stack, torch.enable_grad():
        stack.callback(model.get_submodule(path).register_forward_hook(leaf).remove)
        answer = first(model(*batch.inputs))
        classes = batch.labels is not None and is_classes(answer, batch.labels)
        loss = (sampled_labels if classes else error_of_outputs)(answer, batch).sum()
        if not loss.requires_grad:
            return None
        return torch.autograd.grad(loss, held[0], allow_unused=True)[0]


def _with_first(out: Any, tensor: Tensor) -> Any:
    if type(out) is tuple and out and isinstance(out[0], Tensor):
        return (tensor, *out[1:])
    return out  # its gradient is then not known


def _copied(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Modules that work in place must not change what is held."""
    return tuple(a.clone() if isinstance(a, Tensor) else a for a in args)


def _in(name: str, path: str) -> bool:
    return name.startswith(f"{path}.")
