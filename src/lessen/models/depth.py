"""Depth: residual blocks, read from the running network, and networks without some of them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from lessen.errors import LessenError, did_you_mean
from lessen.models.groups.trace import Inputs, Op, Recorder, Ref, Trace, call, plain_eval, record, tensor_names, tensors
from lessen.models.surgery.edits import Edit, Setting, apply_edits
from lessen.models.surgery.passed import Passed

_ADDS = 3  # sums on the way through a block at most: attention, cross-attention, feed-forward
_THROUGH = frozenset(
    "add add_ native_layer_norm _fused_rms_norm relu relu_ clone alias detach native_dropout dropout _to_copy".split()
)


@dataclass(frozen=True)
class Block:
    """A module whose output is one of its arguments plus something: without it, that argument goes on.

    Attributes:
        name: path of the module.
        place: position or keyword of the argument.
        outputs: 0 if it gives a tensor, else the length of its tuple.
        parameters: values in it.
    """

    name: str
    place: int | str
    outputs: int
    parameters: int


@dataclass(frozen=True)
class Shallow:
    """A network without some blocks, and the edits that do it again (`apply_edits`)."""

    model: nn.Module
    edits: tuple[Edit | Setting, ...]


def find_blocks(model: nn.Module, example_inputs: Inputs) -> tuple[tuple[Block, ...], dict[str, str]]:
    """The residual blocks of a network, and modules that look like one but can't go, with the reason.

    A block's output must be reached from one of its arguments through sums (at most three), norms and rectifiers
    alone, and keep its shape. In a post-norm transformer that is a layer, its attention, its feed-forward.

    Args:
        model: any network that runs; left as it was found.
        example_inputs: tuple of positional, or dict of named inputs.
    """
    calls = _calls(model, example_inputs)
    found, left = [], {}
    for name, module in model.named_modules():
        if not name or isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)) or name not in calls[1]:
            continue
        size = sum(p.numel() for p in module.parameters())
        place = _residual_place(calls[0], calls[1][name]) if size else None
        if place is None:
            continue
        if len(calls[1][name]) > 1:
            left[name] = "it runs more than once"
        elif (outputs := _outputs(calls[1][name][0])) is None:
            left[name] = "it gives more than the tensor that could go on"
        else:
            found.append(Block(name, place, outputs, size))
    return tuple(found), left


def without_blocks(model: nn.Module, names: Sequence[str], example_inputs: Inputs) -> Shallow:
    """A copy of the network without these blocks and without the layers that only they read.

    Raises:
        LessenError: no such block, one inside another, or the network does not run without it.
    """
    known = {b.name: b for b in find_blocks(model, example_inputs)[0]}
    for name in names:
        if name not in known:
            raise LessenError(f"{name!r} is no residual block", where="blocks", mend=did_you_mean(name, known))
        if any(name != other and name.startswith(f"{other}.") for other in names):
            raise LessenError(f"{name!r} is inside another block that goes", where="blocks", mend="name the outer one")
    edits = [Setting(n, "passed", (known[n].place, known[n].outputs)) for n in names]
    try:
        shallow = apply_edits(model, edits)
        edits += _dead(shallow, example_inputs)
        made = apply_edits(model, edits)
        _compare(shallow, made, example_inputs)
    except LessenError:
        raise
    except Exception as error:  # whatever the network's own code raises
        raise LessenError(
            f"the network does not run without it: {type(error).__name__}: {str(error)[:200]}", where=", ".join(names)
        ) from error
    return Shallow(made, tuple(edits))


@dataclass(frozen=True)
class _Call:
    """One call of a module: its tensor arguments by place, what it gave, and its operations."""

    given: tuple[tuple[int | str, Ref], ...]
    out: Any
    outs: tuple[Ref, ...]
    start: int
    stop: int


def _calls(model: nn.Module, inputs: Inputs) -> tuple[Trace, dict[str, list[_Call]]]:
    twin, calls, open_calls = copy.deepcopy(model), dict[str, list[_Call]](), list[tuple[Any, int]]()
    recorder = Recorder({id(t): name for name, t in tensor_names(twin).items()}, [])

    def before(_: nn.Module, args: tuple, kwargs: dict) -> None:
        given = [(k, v) for k, v in (*enumerate(args), *kwargs.items()) if isinstance(v, Tensor)]
        open_calls.append((tuple((k, recorder.ref(v)) for k, v in given), len(recorder.trace.ops)))

    def after(name: str, out: Any) -> None:
        given, start = open_calls.pop()
        outs = tuple(recorder.ref(t) for t in tensors(out))
        calls.setdefault(name, []).append(_Call(given, out, outs, start, len(recorder.trace.ops)))

    for name, module in twin.named_modules():
        module.register_forward_pre_hook(before, with_kwargs=True)
        module.register_forward_hook(lambda _m, _a, _k, out, name=name: after(name, out), with_kwargs=True)
    with plain_eval(twin), recorder:
        call(twin, inputs)
    return recorder.trace, calls


def _outputs(made: _Call) -> int | None:
    """0 for a tensor, the length of a tuple of which only the first is a tensor, None for anything else."""
    if isinstance(made.out, Tensor):
        return 0
    if type(made.out) is tuple and made.out and isinstance(made.out[0], Tensor) and len(made.outs) == 1:
        return len(made.out) if all(v is None for v in made.out[1:]) else None
    return None


def _residual_place(trace: Trace, made: Sequence[_Call]) -> int | str | None:
    """The argument that the output is a sum with; None where there is none, or several."""
    first = made[0]
    if not first.outs:
        return None
    makers = {r.id: op for op in trace.ops[first.start : first.stop] for r in op.outs if isinstance(r, Ref)}
    out = first.outs[0]
    able = [(k, r, _sums(makers, out, r)) for k, r in first.given if r.shape == out.shape]
    ways = [(k, r, n) for k, r, n in able if n is not None]
    one = len({r.id for _, r, _ in ways}) == 1 and 1 <= (ways[0][2] or 0) <= _ADDS
    return ways[0][0] if one else None


def _sums(makers: dict[int, Op], at: Ref, goal: Ref) -> int | None:
    """How many sums lie between `goal` and `at`, through operations that an identity would survive; None: no way."""
    if at.id == goal.id:
        return 0
    op = makers.get(at.id)
    name = op.func._schema.name.removeprefix("aten::") if op is not None else ""
    if op is None or name not in _THROUGH:
        return None
    sources = [r for r in op.args[: 2 if name.startswith("add") else 1] if isinstance(r, Ref) and r.shape == at.shape]
    ways = [n for r in sources if r.id != at.id and (n := _sums(makers, r, goal)) is not None]
    return min(ways) + (len(sources) > 1) if ways else None


def _dead(model: nn.Module, inputs: Inputs) -> list[Setting]:
    """Layers whose parameters no output depends on any more: they are passed by as well."""
    trace = record(model, inputs)
    live = {r.id for r in trace.outputs}
    for op in reversed(trace.ops):
        writes = op.func._schema.name.endswith("_")  # into a tensor that something else may read
        if writes or any(isinstance(r, Ref) and r.id in live for r in op.outs):
            live.update(r.id for r in op.refs)
    used = {path.rpartition(".")[0] for i, path in trace.params.items() if i in live}
    seen = {path.rpartition(".")[0] for path in trace.params.values()}
    return [
        Setting(n, "passed", (0, 0)) for n, m in model.named_modules() if n in seen - used and not list(m.children())
    ]


def _compare(shallow: nn.Module, made: nn.Module, inputs: Inputs) -> None:
    """Taking dead layers out must change nothing."""
    with plain_eval(shallow), plain_eval(made):
        pairs: Iterable = zip(tensors(call(shallow, inputs)), tensors(call(made, inputs)), strict=True)
        if any(a.shape != b.shape or not a.allclose(b, equal_nan=True) for a, b in pairs):
            raise LessenError("a layer that seemed unused is used", where="blocks", mend="leave the block in")


def is_passed(module: nn.Module) -> bool:
    """Whether this module stands where a block was."""
    return isinstance(module, Passed)
