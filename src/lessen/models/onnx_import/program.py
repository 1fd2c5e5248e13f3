"""A graph as a list of steps over named values; immutable, shared by all copies of a module."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import LessenError
from .opaque import OpaqueNode
from .ops_host import HOST_OPS
from .values import HOST_LIMIT, Attributes, NotHost, NotNative, Op, to_tensor

ORDINARY = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, ZeroDivisionError, NotNative)


@dataclass(eq=False)
class Step:
    """One node: where it reads and writes, and how it runs.

    Args:
        where: how messages name it.
        inputs: keys of what it reads ("" for an absent optional), then those that its subgraphs capture.
        module: path of the submodule that holds its weights, if any; `call(submodule, a, *inputs)` runs it.
        op: the native function, or None.
        branches: the programs of its subgraphs by attribute name.
        opaque: the fallback.
        reason: why it is opaque, "" if it isn't.
    """

    where: str
    a: Attributes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    op: Op | None = None
    module: str = ""
    call: Callable[..., Any] | None = None
    branches: dict[str, Program] = field(default_factory=dict)
    captured: tuple[str, ...] = ()
    opaque: OpaqueNode | None = None
    reason: str = ""
    last: tuple[str, ...] = ()  # values nobody reads after this step
    taken: str = ""  # the branch of an If that ran last; tracing follows it

    def run(self, network: nn.Module, values: dict[str, Any]) -> tuple[Any, ...]:
        """The outputs; falls back to ONNX Runtime for good where torch can't compute this."""
        inputs = [values[k] if k else None for k in self.inputs]
        if not self.reason:
            try:
                return _as_tuple(self._native(network, inputs, values))
            except NotNative as error:
                self.reason = str(error)
            except RuntimeError as error:
                if "not implemented for" not in str(error) or self.opaque is None:
                    raise
                self.reason = str(error).splitlines()[0]
        if self.opaque is None:
            raise NotNative(self.reason)
        return tuple(self.opaque([*inputs, *(values[k] for k in self.captured)], _device(inputs)))

    def _native(self, network: nn.Module, inputs: list[Any], values: dict[str, Any]) -> Any:
        if self.branches:
            return self._branch(network, inputs, values)
        if self.call is not None:
            device = _device(inputs)
            tensors = [to_tensor(v, device) if isinstance(v, np.ndarray) else v for v in inputs]
            return self.call(network.get_submodule(self.module), self.a, *tensors)
        if self.a.op in HOST_OPS and _all_host(inputs):
            try:
                return HOST_OPS[self.a.op](self.a, *_trimmed(inputs))
            except NotHost:
                pass
        if self.op is None:
            raise NotNative(self.reason)
        device, static = _device(inputs), self.op.static
        return self.op.fn(self.a, *_trimmed([
            to_tensor(v, device) if isinstance(v, np.ndarray) and i not in static else v for i, v in enumerate(inputs)
        ]))  # fmt: skip

    def _branch(self, network: nn.Module, inputs: list[Any], values: dict[str, Any]) -> Any:
        """`If`: run the branch that the condition picks, with what it captures."""
        condition = inputs[0].reshape(-1)[0]
        if isinstance(condition, Tensor) and torch.compiler.is_compiling():
            if not self.taken:
                raise LessenError("torch.export can't know which branch the data picks", where=self.where,
                                  mend="run the module once before: tracing then takes the same branch")  # fmt: skip
        else:
            self.taken = "then_branch" if bool(condition) else "else_branch"
        return tuple(self.branches[self.taken].run(network, {k: values[k] for k in self.captured}))


def _trimmed(inputs: list[Any]) -> list[Any]:
    """Inputs less absent ones at the end."""
    while inputs and inputs[-1] is None:
        inputs = inputs[:-1]
    return inputs


def _as_tuple(result: Any) -> tuple[Any, ...]:
    return result if isinstance(result, tuple) else (result,)  # a list is one value, a sequence


def _all_host(inputs: list[Any]) -> bool:
    present = [v for v in inputs if v is not None]
    return bool(present) and all(
        isinstance(v, np.ndarray) and v.size <= HOST_LIMIT and v.dtype.kind in "biufO" for v in present
    )


def _device(inputs: Iterable[Any]) -> torch.device | None:
    return next((v.device for v in inputs if isinstance(v, Tensor)), None)


class Program:
    """The steps of one graph; `run` takes the values it starts from and returns those of its outputs."""

    def __init__(self, inputs: tuple[str, ...], outputs: tuple[str, ...], steps: list[Step]) -> None:
        self.inputs, self.outputs = inputs, outputs
        self.steps = _needed(steps, set(outputs))
        self.reads = _reads(self.steps) | set(outputs)
        _mark_last(self.steps, set(outputs))

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        return self

    def walk(self) -> Iterable[Step]:
        """Every step, those of branches too."""
        for step in self.steps:
            yield step
            for branch in step.branches.values():
                yield from branch.walk()

    def run(self, network: Any, values: dict[str, Any]) -> list[Any]:
        """The outputs, from a dict of the inputs (and captured values), which is used up."""
        for key, value in network.constants_for(self):
            values[key] = value
        for step in self.steps:
            try:
                results = step.run(network, values)
            except ORDINARY as error:
                if isinstance(error, LessenError) or torch.compiler.is_compiling():
                    raise
                raise LessenError(
                    f"{step.a.op} fails: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
                    where=step.where,
                    mend="check the shapes and types of the inputs against the model's",
                ) from error
            values.update(zip((k for k in step.outputs if k), (r for k, r in zip(step.outputs, results) if k)))
            for key in step.last:
                values.pop(key, None)
        return [values[k] for k in self.outputs]


def _reads(steps: list[Step]) -> set[str]:
    return {k for s in steps for k in (*s.inputs, *s.captured) if k}


def _needed(steps: list[Step], wanted: set[str]) -> list[Step]:
    """The steps that anything depends on."""
    kept = []
    for step in reversed(steps):
        if wanted.intersection(step.outputs):
            kept.append(step)
            wanted = wanted | set(step.inputs) | set(step.captured)
    return kept[::-1]


def _mark_last(steps: list[Step], outputs: set[str]) -> None:
    seen = set(outputs)
    for step in reversed(steps):
        keys = {k for k in (*step.inputs, *step.captured, *step.outputs) if k} - seen
        step.last = tuple(sorted(keys))
        seen |= keys
