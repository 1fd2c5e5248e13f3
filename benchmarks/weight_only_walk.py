"""A network rounded block by block, as the authors of GPTQ and AWQ do it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from weight_only_tasks import Task

Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Seen:
    """What a layer reads.

    Args:
        H: mean of x xT, [columns, columns].
        mean_abs: mean of |x|, [columns].
    """

    H: Tensor
    mean_abs: Tensor


Rounder = Callable[[dict[str, Tensor], Seen], dict[str, Tensor]]


class _Stop(Exception):
    """No error: the rest of the pass isn't needed."""


@torch.no_grad()
def walk(task: Task, rounder: Rounder, rounded_inputs: bool) -> nn.Module:
    """A copy of the network whose blocks were rounded one after the other.

    Args:
        rounder: (weights of the layers that read one and the same input, what they read) -> new weights.
        rounded_inputs: a layer reads what comes out of the layers rounded before it, those of its own block included
            (GPTQ with `true_sequential`); else what it reads in the float network (AWQ).
    """
    made = copy.deepcopy(task.model)
    source = made if rounded_inputs else task.model
    for stack in task.stacks:
        calls = _calls(source, stack[0], task.batches)
        for path in stack:
            block, twin = source.get_submodule(path), made.get_submodule(path)
            for names in _shared(block, calls[0]):
                seen = _seen(_inputs(block, names[0], calls))
                weights = {n: twin.get_submodule(n).weight for n in names}
                for name, weight in rounder(weights, seen).items():
                    twin.get_submodule(name).weight.copy_(weight)
            calls = _onward(block, calls)
    return made


@torch.no_grad()
def moments(task: Task, batches: Sequence[dict[str, Any]]) -> dict[str, tuple[Tensor, int]]:
    """(second moment of the input in the float network [1, columns, columns], rows it is the mean of), by path.

    Layers that read the same tensor get the same object, as in our statistics.
    """
    found: dict[str, list[Any]] = {}

    def see(name: str, x: Tensor) -> None:
        held = found.setdefault(name, [torch.zeros(()), 0])
        held[0] = held[0] + x.T @ x
        held[1] += len(x)

    with _hooked(task.linears(), see):
        for batch in batches:
            task.model(**batch)
    kept: list[Tensor] = []
    made = {}
    for name, (total, n) in found.items():
        H = (total / n)[None]
        same = next((k for k in kept if k.shape == H.shape and torch.equal(k, H)), None)
        made[name] = (H if same is None else same, n)
        kept += [] if same is not None else [H]
    return made


def _seen(xs: Sequence[Tensor]) -> Seen:
    n, columns = sum(map(len, xs)), xs[0].shape[1]
    H, mean_abs = torch.zeros(columns, columns), torch.zeros(columns)
    for x in xs:
        H.addmm_(x.T, x, alpha=1 / n)
        mean_abs += x.abs().sum(0) / n
    return Seen(H, mean_abs)


@contextmanager
def _hooked(layers: dict[str, nn.Module], see: Callable[[str, Tensor], None]) -> Iterator[None]:
    def hook(name: str) -> Callable[..., None]:
        return lambda module, args: see(name, args[0].reshape(-1, args[0].shape[-1]))

    hooks = [m.register_forward_pre_hook(hook(n)) for n, m in layers.items()]
    try:
        yield
    finally:
        for h in hooks:
            h.remove()


def _calls(model: nn.Module, path: str, batches: Sequence[dict[str, Any]]) -> list[Call]:
    """How the network calls a block, once a batch."""
    found: list[Call] = []

    def catch(module: nn.Module, args: Any, kwargs: Any) -> None:
        found.append((args, {k: v for k, v in kwargs.items() if "past" not in k and "cache" not in k}))
        raise _Stop

    handle = model.get_submodule(path).register_forward_pre_hook(catch, with_kwargs=True)
    for batch in batches:
        with suppress(_Stop):
            model(**batch)
    handle.remove()
    return found


def _onward(block: nn.Module, calls: Sequence[Call]) -> list[Call]:
    made = []
    for args, kwargs in calls:
        out = block(*args, **kwargs)
        made.append(((out[0] if isinstance(out, tuple) else out, *args[1:]), kwargs))
    return made


def _shared(block: nn.Module, call: Call) -> list[list[str]]:
    """Linear layers by the input that they read, in the order in which they run."""
    groups: dict[int, list[str]] = {}
    kept: list[Tensor] = []  # or their memory would be used again

    def see(name: str, x: Tensor) -> None:
        kept.append(x)
        groups.setdefault(x.data_ptr(), []).append(name)

    with _hooked({n: m for n, m in block.named_modules() if isinstance(m, nn.Linear)}, see):
        block(*call[0], **call[1])
    return list(groups.values())


def _inputs(block: nn.Module, name: str, calls: Sequence[Call]) -> list[Tensor]:
    found: list[Tensor] = []

    def catch(name: str, x: Tensor) -> None:
        found.append(x)
        raise _Stop

    with _hooked({name: block.get_submodule(name)}, catch):
        for args, kwargs in calls:
            with suppress(_Stop):
                block(*args, **kwargs)
    return found
