"""One eager forward, recorded as a straight line of ATen operations.

The tracer is a dispatch mode around an ordinary forward, not `torch.export`: it sees the same ATen operations, takes
about as long as the forward itself (export takes seconds to minutes), and works on every model that runs at all,
control flow that depends on data, caches and custom classes included. What it cannot give is an editable program, so
`surgery` uses `torch.export` where a model's own code can't be put right.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from lessen.models.groups.hollow import Hollow

Inputs = tuple | dict


@dataclass(frozen=True)
class Ref:
    """A tensor of the trace: its number and its shape."""

    id: int
    shape: tuple[int, ...]

    @property
    def ndim(self) -> int:
        return len(self.shape)


@dataclass(frozen=True)
class Op:
    """One recorded operation: tensors among `args`, `kwargs` and `outs` are `Ref`s; `module` is who ran it."""

    index: int
    func: Any
    args: tuple
    kwargs: dict
    outs: tuple
    module: str

    @functools.cached_property
    def refs(self) -> list[Ref]:
        """The tensors it reads, in order."""
        found: list[Ref] = []
        _collect(self.args, found)
        _collect(tuple(self.kwargs.values()), found)
        return found

    @property
    def out(self) -> Ref:
        return self.outs[0]

    def __str__(self) -> str:
        return f"{self.func._schema.name.removeprefix('aten::')} in {self.module or 'the model itself'}"


def _collect(values: Any, found: list[Ref]) -> None:
    for value in values:
        if type(value) is Ref:
            found.append(value)
        elif type(value) in (list, tuple):
            _collect(value, found)


@dataclass
class Trace:
    """The recorded forward: operations in order, and which tensor is which parameter, input or output."""

    ops: list[Op] = field(default_factory=list)
    params: dict[int, str] = field(default_factory=dict)
    inputs: list[Ref] = field(default_factory=list)
    outputs: list[Ref] = field(default_factory=list)
    refs: dict[int, Ref] = field(default_factory=dict)
    indices: dict[int, list[int]] = field(default_factory=dict)  # index tensors that are written in the code

    @functools.cached_property
    def by_path(self) -> dict[str, Ref]:
        """The parameters and buffers that were used."""
        return {path: self.refs[i] for i, path in self.params.items()}

    @functools.cached_property
    def users(self) -> dict[int, list[Op]]:
        """The operations that read each tensor."""
        found: dict[int, list[Op]] = {}
        for op in self.ops:
            for ref in op.refs:
                found.setdefault(ref.id, []).append(op)
        return found


class Recorder(TorchDispatchMode):
    """Writes down every operation; with `hollow`, products are not computed."""

    def __init__(self, names: dict[int, str], stack: list[str], hollow: Hollow | None = None) -> None:
        super().__init__()
        self.trace, self.names, self.stack, self.hollow = Trace(), names, stack, hollow
        self.literals: set[int] = set()
        self.seen: dict[int, tuple[weakref.ref, Ref]] = {}

    def ref(self, value: Any) -> Any:
        """The `Ref` of a tensor; in lists and tuples too (operations have no deeper arguments)."""
        if not isinstance(value, Tensor):
            return type(value)([self.ref(v) for v in value]) if type(value) in (list, tuple) else value
        known = self.known(value)
        if known is not None and known.shape == tuple(value.shape):
            return known
        found = Ref(len(self.trace.refs), tuple(value.shape))
        self.seen[id(value)] = (weakref.ref(value), found)
        self.trace.refs[found.id] = found
        if id(value) in self.names:
            self.trace.params[found.id] = self.names[id(value)]
        return found

    def known(self, value: Any) -> Ref | None:
        """The `Ref` of a tensor that has been seen; the number of a dead tensor may be used again by a new one."""
        entry = self.seen.get(id(value))
        return entry[1] if entry is not None and entry[0]() is value else None

    def _note_indices(self, values: Any, refs: Any) -> None:
        for value, found in zip(values, refs):
            if isinstance(value, Tensor) and found.id in self.literals and value.dtype == torch.int64:
                self.trace.indices[found.id] = value.flatten().tolist()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        before = self.ref(args), {k: self.ref(v) for k, v in kwargs.items()} if kwargs else {}
        made = self.hollow.product(func, args) if self.hollow is not None and not kwargs else None
        out = func(*args, **(kwargs or {})) if made is None else made
        if func is torch.ops.aten.index.Tensor:
            self._note_indices(args[1], before[0][1])
        outs = self.ref(_flat(out))
        where = self.stack[-1] if self.stack else ""
        if func is torch.ops.aten.lift_fresh.default:
            self.literals.add(outs[0].id)
        op = Op(len(self.trace.ops), func, before[0], before[1], outs, where)
        self.trace.ops.append(op)
        if self.hollow is not None:
            self._note_hollow(self.hollow, op, out, made is not None)
        return out

    def _note_hollow(self, hollow: Hollow, op: Op, out: Any, made: bool) -> None:
        reads = any(r.id in hollow.ids for r in op.refs)
        if made or hollow.spread(op.func, reads, _flat(out)):
            hollow.ids.update(r.id for r in op.outs if type(r) is Ref)


def _flat(out: Any) -> tuple:
    """An operation's results, in order."""
    if type(out) not in (list, tuple):
        return (out,)
    return tuple(leaf for part in out for leaf in _flat(part))


def call(model: nn.Module, inputs: Inputs) -> Any:
    """Run `model` on positional (tuple) or named (dict) inputs."""
    return model(**inputs) if isinstance(inputs, dict) else model(*inputs)


def tensors(value: Any) -> list[Tensor]:
    """All tensors in a nest of tuples, dicts and output classes, in order."""
    found: list[Tensor] = []
    for leaf in tree_flatten(value)[0]:
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif hasattr(leaf, "to_tuple"):
            found.extend(tensors(leaf.to_tuple()))
        elif isinstance(leaf, dict):
            found.extend(tensors(dict(leaf)))
    return found


@contextlib.contextmanager
def plain_eval(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradient, no fused kernels that hide several operations; all restored at the end."""
    training = [m for m in model.modules() if m.training]
    mkldnn, fastpath = torch._C._get_mkldnn_enabled(), torch.backends.mha.get_fastpath_enabled()
    for module in training:  # not eval(): exported graphs refuse it
        module.training = False
    if any("_hh" in name for name, _ in model.named_parameters()):  # recurrent layers
        torch._C._set_mkldnn_enabled(False)
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            yield
    finally:
        torch._C._set_mkldnn_enabled(mkldnn)
        torch.backends.mha.set_fastpath_enabled(fastpath)
        for module in training:
            module.training = True


@contextlib.contextmanager
def _watching(model: nn.Module, stack: list[str]) -> Iterator[None]:
    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: stack.append(name)))
        handles.append(module.register_forward_hook(lambda *_: (stack.pop() and None) or None, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def tensor_names(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by path; a shared one under its first path."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def record(model: nn.Module, inputs: Inputs) -> Trace:
    """Run a copy of `model` once in evaluation mode and return what it did; a first run may change a network."""
    with contextlib.suppress(Exception):  # Looked, or whatever code makes of zeros
        return _recorded(model, inputs, Hollow())
    return _recorded(model, inputs, None)


def _recorded(model: nn.Module, inputs: Inputs, hollow: Hollow | None) -> Trace:
    model, stack = copy.deepcopy(model, {id(p): p for p in model.parameters()}), list[str]()
    with plain_eval(model), _watching(model, stack):
        return watch(model, inputs, lambda: call(model, inputs), stack, hollow)[0]


def watch(
    model: nn.Module, inputs: Inputs, run: Callable[[], Any], stack: list[str], hollow: Hollow | None = None
) -> tuple[Trace, Recorder]:
    """Record what `run` does; the top of `stack` says in whose name."""
    recorder = Recorder({id(t): name for name, t in tensor_names(model).items()}, stack, hollow)
    recorder.trace.inputs = [recorder.ref(t) for t in tensors(inputs)]
    with recorder:
        out = run()
    recorder.trace.outputs = [recorder.ref(t) for t in tensors(out)]
    return recorder.trace, recorder
