"""Depth: residual blocks, read from the running network, and networks without some of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from lessen.errors import LessenError, did_you_mean
from lessen.models.branches import Block, find_branches
from lessen.models.calls import Call, calls_of
from lessen.models.groups.trace import Inputs, Op, Ref, Trace, call, plain_eval, tensors
from lessen.models.surgery.edits import Edit, Setting, apply_edits
from lessen.models.surgery.passed import Blank, Passed

_ADDS = 3  # sums on the way through a block at most: attention, cross-attention, feed-forward
_THROUGH = frozenset(
    "add add_ native_layer_norm _fused_rms_norm relu relu_ clone alias detach native_dropout dropout _to_copy".split()
)


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
    found, left, _ = _found(model, *calls_of(model, example_inputs))
    return tuple(b for b, _ in found), left


def find_removable(model: nn.Module, example_inputs: Inputs) -> tuple[tuple[Block, ...], dict[str, str]]:
    """The residual blocks (`find_blocks`) and, where a block is a sum of several, its summands (`find_branches`)."""
    trace, calls = calls_of(model, example_inputs)
    found, left, single = _found(model, trace, calls)
    branches = find_branches(model, trace, calls, single)
    return (*(b for b, _ in found), *branches), left


def _found(
    model: nn.Module, trace: Trace, calls: Mapping[str, Sequence[Call]]
) -> tuple[list[tuple[Block, int]], dict[str, str], list[str]]:
    """Blocks with the number of their sums, what can't go and why, and the names of those that are one sum."""
    found, left = list[tuple[Block, int]](), dict[str, str]()
    for name, module in model.named_modules():
        if not name or isinstance(module, (nn.Sequential, nn.ModuleList, nn.ModuleDict)) or name not in calls:
            continue
        size = sum(p.numel() for p in module.parameters())
        place = _residual_place(trace, calls[name]) if size else None
        if place is None:
            continue
        if len(calls[name]) > 1:
            left[name] = "it runs more than once"
        elif (outputs := calls[name][0].outputs) is None:
            left[name] = "it gives more than the tensor that could go on"
        else:
            found.append((Block(name, place[0], outputs, size), place[1]))
    return found, left, [b.name for b, sums in found if sums == 1]


def without_blocks(model: nn.Module, names: Sequence[str], example_inputs: Inputs) -> Shallow:
    """A copy of the network without these blocks and without the layers that only they read.

    Raises:
        LessenError: no such block, one inside another, or the network does not run without it.
    """
    known = {b.name: b for b in find_removable(model, example_inputs)[0]}
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


def _residual_place(trace: Trace, made: Sequence[Call]) -> tuple[int | str, int] | None:
    """The argument that the output is a sum with, and of how many sums; None where there is none, or several."""
    first = made[0]
    if not first.outs:
        return None
    makers = {r.id: op for op in trace.ops[first.start : first.stop] for r in op.outs if isinstance(r, Ref)}
    out = first.outs[0]
    able = [(k, r, _sums(makers, out, r)) for k, r in first.given if r.shape == out.shape]
    ways = [(k, r, n) for k, r, n in able if n is not None]
    one = len({r.id for _, r, _ in ways}) == 1 and 1 <= (ways[0][2] or 0) <= _ADDS
    return (ways[0][0], ways[0][2] or 0) if one else None


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
    """Layers whose parameters no output depends on any more: they are passed by as well.

    The code still calls them: where it counts on another width, zeros of that width stand there.
    """
    trace, calls = calls_of(model, inputs)
    live = {r.id for r in trace.outputs}
    for op in reversed(trace.ops):
        writes = op.func._schema.name.endswith("_")  # into a tensor that something else may read
        if writes or any(isinstance(r, Ref) and r.id in live for r in op.outs):
            live.update(r.id for r in op.refs)
    used = {path.rpartition(".")[0] for i, path in trace.params.items() if i in live}
    seen = {path.rpartition(".")[0] for path in trace.params.values()}
    dead = [n for n, m in model.named_modules() if n in seen - used and not list(m.children())]
    return [s for n in dead if (s := _stand_in(n, calls.get(n, ()))) is not None]


def _stand_in(name: str, made: Sequence[Call]) -> Setting | None:
    if not made or not made[0].given or not made[0].outs:
        return None
    given, out = made[0].given[0][1].shape, made[0].outs[0].shape
    if given == out:
        return Setting(name, "passed", (0, 0))
    return Setting(name, "blank", out[-1]) if given[:-1] == out[:-1] and out else None


def _compare(shallow: nn.Module, made: nn.Module, inputs: Inputs) -> None:
    """Taking dead layers out must change nothing."""
    with plain_eval(shallow), plain_eval(made):
        pairs: Iterable = zip(tensors(call(shallow, inputs)), tensors(call(made, inputs)), strict=True)
        if any(a.shape != b.shape or not a.allclose(b, equal_nan=True) for a, b in pairs):
            raise LessenError("a layer that seemed unused is used", where="blocks", mend="leave the block in")


def is_passed(module: nn.Module) -> bool:
    """Whether this module stands where a block was."""
    return isinstance(module, (Blank, Passed))
