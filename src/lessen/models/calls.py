"""What every module of a network was called with and gave, in one recorded forward."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lessen.models.groups.trace import Inputs, Recorder, Ref, Trace, call, plain_eval, tensor_names, tensors


@dataclass(frozen=True)
class Call:
    """One call of a module: its tensor arguments by place, what it gave, and its operations."""

    given: tuple[tuple[int | str, Ref], ...]
    out: Any
    outs: tuple[Ref, ...]
    start: int
    stop: int

    @property
    def outputs(self) -> int | None:
        """0 for a tensor, the length of a tuple of which only the first is a tensor, None for anything else."""
        if isinstance(self.out, Tensor):
            return 0
        if type(self.out) is tuple and self.out and isinstance(self.out[0], Tensor) and len(self.outs) == 1:
            return len(self.out) if all(v is None for v in self.out[1:]) else None
        return None


def calls_of(model: nn.Module, inputs: Inputs) -> tuple[Trace, dict[str, list[Call]]]:
    """The recorded forward of a copy, and each module's calls in it."""
    twin, calls, open_calls = copy.deepcopy(model), dict[str, list[Call]](), list[tuple[Any, int]]()
    recorder = Recorder({id(t): name for name, t in tensor_names(twin).items()}, [])

    def before(_: nn.Module, args: tuple, kwargs: dict) -> None:
        given = [(k, v) for k, v in (*enumerate(args), *kwargs.items()) if isinstance(v, Tensor)]
        open_calls.append((tuple((k, recorder.ref(v)) for k, v in given), len(recorder.trace.ops)))

    def after(name: str, out: Any) -> None:
        given, start = open_calls.pop()
        outs = tuple(recorder.ref(t) for t in tensors(out))
        calls.setdefault(name, []).append(Call(given, out, outs, start, len(recorder.trace.ops)))

    for name, module in twin.named_modules():
        module.register_forward_pre_hook(before, with_kwargs=True)
        module.register_forward_hook(lambda _m, _a, _k, out, name=name: after(name, out), with_kwargs=True)
    with plain_eval(twin), recorder:
        out = call(twin, inputs)
    recorder.trace.outputs = [recorder.ref(t) for t in tensors(out)]
    return recorder.trace, calls
