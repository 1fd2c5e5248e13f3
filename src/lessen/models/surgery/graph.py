"""The second way: an exported graph of the network, with the sizes in it rewritten.

For networks whose own code holds sizes that are no attribute of any module.
"""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.parametrize import type_before_parametrizations
from torch.utils._pytree import tree_map_only

from lessen.errors import LessenError
from lessen.models.groups.flow import Flow
from lessen.models.groups.grouping import propagate
from lessen.models.groups.trace import Inputs, Recorder, Ref, Trace, plain_eval, watch
from lessen.models.quiet import quiet
from lessen.models.surgery.cut import Cut
from lessen.models.surgery.edits import Edit, slice_tensors


def rewritten(model: nn.Module, inputs: Inputs, edits: Sequence[Edit], known: Flow) -> nn.Module:
    """An exported copy of `model` with tensors cut and the graph's constants put right."""
    plain, renamed = _baked(model, edits)
    edits = [replace(e, path=renamed.get(e.path, e.path)) for e in edits]
    with plain_eval(plain), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = _exported(plain, inputs)
        trace, recorder, values = _traced(graph, inputs)
        flow = propagate(trace, known=_as_named(known, renamed))
        cut = Cut(flow, edits)
        shapes = _Shapes(cut, recorder, values)
        for node in list(graph.graph.nodes):
            if node.op == "call_function":
                _rewrite(graph.graph, node, shapes)
        slice_tensors(graph, cut.all_edits())
        graph.graph.lint()
        graph.recompile()
    return graph


def _baked(model: nn.Module, edits: Sequence[Edit]) -> tuple[nn.Module, dict[str, str]]:
    """A copy with plain weights where cut ones are computed from others: a norm over fewer columns is another norm.

    Returns the copy, and the plain weight's path for each tensor of its shape that it was computed from.
    """
    renamed: dict[str, str] = {}
    plain = copy.deepcopy(model)
    for path, module in [*plain.named_modules()]:
        chains = getattr(module, "parametrizations", None)
        prefix = f"{path}.parametrizations.".lstrip(".")
        if isinstance(chains, nn.ModuleDict) and any(e.path.startswith(prefix) for e in edits):
            values = {name: getattr(module, name).detach().clone() for name in chains}
            for name, value in values.items():
                same = [n for n, t in chains[name].named_parameters(recurse=False) if t.shape == value.shape]
                renamed |= {f"{prefix}{name}.{n}": f"{path}.{name}".lstrip(".") for n in same}
            _unparametrized(module, values)
    return plain, renamed


def _unparametrized(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Not by torch's own function: that changes the class, which the copy shares with the original."""
    module.__class__ = type_before_parametrizations(module)
    del module._modules["parametrizations"]
    for name, value in values.items():
        module.register_parameter(name, nn.Parameter(value))


def _as_named(known: Flow, renamed: Mapping[str, str]) -> Flow:
    """The same propagation, tensors by their new paths."""
    twin = copy.copy(known)
    twin.owners = [(start, stop, renamed.get(path, path), dim) for start, stop, path, dim in known.owners]
    return twin


def _exported(model: nn.Module, inputs: Inputs) -> fx.GraphModule:
    """With the first dimension of each input free if the exporter manages, else for these very shapes."""
    args, kwargs = ((), inputs) if isinstance(inputs, dict) else (inputs, {})
    free = tree_map_only(
        Tensor, lambda t: {0: torch.export.Dim.AUTO} if t.ndim and t.shape[0] > 1 else None, (args, kwargs)
    )
    ways = (free[1],) if kwargs else (free[0], (free[0],))  # the second for a `forward(*inputs)`
    for dynamic in (*ways, None):
        try:
            with quiet():
                program = torch.export.export(model, args, kwargs, dynamic_shapes=dynamic, strict=False)
            return program.module(check_guards=False)
        except Exception as error:  # the exporter has many ways to refuse
            refusal = error
    raise LessenError(f"the network can't be exported: {str(refusal).splitlines()[0]}")


class _Watched(fx.Interpreter):
    """Runs a graph node by node, the node's name on the stack, and keeps what each gave."""

    def __init__(self, graph: fx.GraphModule, stack: list[str]) -> None:
        super().__init__(graph, garbage_collect_values=False)
        self.stack = stack
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.stack.append(n.name)
        try:
            self.values[n] = super().run_node(n)
            return self.values[n]
        finally:
            self.stack.pop()


def _traced(graph: fx.GraphModule, inputs: Inputs) -> tuple[Trace, Recorder, dict[fx.Node, Any]]:
    stack: list[str] = []
    runner = _Watched(graph, stack)
    flat = torch.utils._pytree.tree_leaves(((), inputs) if isinstance(inputs, dict) else (inputs, {}))
    trace, recorder = watch(graph, inputs, lambda: runner.run(*flat), stack)
    return trace, recorder, runner.values


class _Shapes:
    """Shapes of the graph's values before and after."""

    def __init__(self, cut: Cut, recorder: Recorder, values: dict[fx.Node, Any]) -> None:
        self.cut, self.recorder, self.values = cut, recorder, values

    def ref(self, value: Any) -> Ref | None:
        if isinstance(value, fx.Node):
            value = self.values.get(value)
        return self.recorder.known(value)

    def pair(self, value: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(before, after); the same twice for what the trace did not see."""
        ref = self.ref(value)
        if ref is None:
            return (), ()
        return ref.shape, self.cut.shape(ref)


Fixer = Callable[[fx.Graph, Any, _Shapes], None]


def _rewrite(graph: fx.Graph, node: Any, shapes: _Shapes) -> None:
    name = getattr(node.target, "_schema", None) and node.target._schema.name.removeprefix("aten::")
    fixer = _FIXERS.get(name or "")
    if fixer is not None:
        with graph.inserting_before(node):
            fixer(graph, node, shapes)


def _sized(graph: fx.Graph, entry: Any, old: int, new: int) -> Any:
    """A size in the graph that was `old`: a number, -1, or an expression of the inputs' sizes."""
    if old == new or entry == -1:
        return entry
    if isinstance(entry, fx.Node):
        return graph.call_function(operator.floordiv, (graph.call_function(operator.mul, (entry, new)), old))
    return new


def _set(node: Any, place: int, name: str, value: Any) -> None:
    if len(node.args) > place:
        node.args = (*node.args[:place], value, *node.args[place + 1 :])
    else:
        node.kwargs = {**node.kwargs, name: value}


def _get(node: Any, place: int, name: str, default: Any = None) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def _shape_at(place: int) -> Fixer:
    def fix(graph: fx.Graph, node: Any, shapes: _Shapes) -> None:
        old, new = shapes.pair(node)
        sizes = node.args[place]
        if old != new:
            _set(node, place, "size", [_sized(graph, s, o, n) for s, o, n in zip(sizes, old, new)])

    return fix


def _fix_unflatten(graph: fx.Graph, node: Any, shapes: _Shapes) -> None:
    old, new = shapes.pair(node)
    dim, sizes = node.args[1], node.args[2]
    start = dim % len(shapes.pair(node.args[0])[0])
    _set(node, 2, "sizes", [_sized(graph, s, old[start + i], new[start + i]) for i, s in enumerate(sizes)])


def _fix_split(graph: fx.Graph, node: Any, shapes: _Shapes) -> None:
    """Any split becomes one with named sizes where its pieces changed."""
    pieces = shapes.values[node]
    pairs = [shapes.pair(p) for p in pieces]
    if all(old == new for old, new in pairs):
        return
    dim = _get(node, 2, "dim", 0) % len(pairs[0][0])
    given = node.args[1]
    entries = list(given) if isinstance(given, (list, tuple)) else [p[0][dim] for p in pairs]
    sizes = [_sized(graph, s, old[dim], new[dim]) for s, (old, new) in zip(entries, pairs)]
    node.target = torch.ops.aten.split_with_sizes.default
    node.args, node.kwargs = (node.args[0], sizes, dim), {}


def _fix_slice(graph: fx.Graph, node: Any, shapes: _Shapes) -> None:
    old, new = shapes.pair(node.args[0])
    dim = _get(node, 1, "dim", 0) % max(1, len(old))
    if not old or old[dim] == new[dim]:
        return
    ref = shapes.ref(node.args[0])
    for place, name in ((2, "start"), (3, "end")):
        at = _get(node, place, name)
        if isinstance(at, int) and ref is not None:
            at = min(max(at + old[dim] if at < 0 else at, 0), old[dim])
            _set(node, place, name, shapes.cut.kept_before(ref, dim, at))
    if _get(node, 4, "step", 1) != 1:
        raise LessenError(f"slice with a step over removed indices in {node.name}")


def _fix_convolution(graph: fx.Graph, node: Any, shapes: _Shapes) -> None:
    name = node.target._schema.name.removeprefix("aten::")
    place = 8 if name == "convolution" else 6
    transposed = "transpose" in name or (name == "convolution" and node.args[6])
    groups = _get(node, place, "groups", 1)
    if groups == 1:
        return
    (x_old, x_new), (w_old, w_new) = shapes.pair(node.args[0]), shapes.pair(node.args[1])
    if transposed:
        whole = w_old[1] == w_new[1]
        _set(node, place, "groups", groups * x_new[1] // x_old[1] if whole else groups)
    else:
        _set(node, place, "groups", x_new[1] // w_new[1])


def _fix_layer_norm(graph: fx.Graph, node: Any, shapes: _Shapes) -> None:
    new = shapes.pair(node.args[0])[1]
    _set(node, 1, "normalized_shape", list(new[len(new) - len(node.args[1]) :]))


def _fix_group_norm(graph: fx.Graph, node: Any, shapes: _Shapes) -> None:
    old, new = shapes.pair(node.args[0])
    op = next(o for o in shapes.cut.trace.ops if o.module == node.name and "group_norm" in o.func._schema.name)
    if not any(limit.op == op.index for limit in shapes.cut.flow.limits):
        _set(node, 1, "num_groups", node.args[1] * new[1] // old[1])


def _fix_pad(graph: fx.Graph, node: Any, shapes: _Shapes) -> None:
    old, new = shapes.pair(node)
    ref, amounts = shapes.ref(node), list(node.args[1])
    for k in range(len(amounts) // 2):
        dim = len(old) - 1 - k
        if old[dim] != new[dim] and ref is not None:
            before, after = amounts[2 * k], amounts[2 * k + 1]
            amounts[2 * k] = shapes.cut.kept_before(ref, dim, before)
            amounts[2 * k + 1] = new[dim] - shapes.cut.kept_before(ref, dim, old[dim] - after)
    _set(node, 1, "pad", amounts)


def _fix_repeat(graph: fx.Graph, node: Any, shapes: _Shapes) -> None:
    (source_old, source_new), (old, new) = shapes.pair(node.args[0]), shapes.pair(node)
    lead = len(old) - len(source_old)
    wide_old, wide_new = (1,) * lead + source_old, (1,) * lead + source_new
    times = [_sized(graph, t, o // so, n // sn) for t, o, n, so, sn in zip(node.args[1], old, new, wide_old, wide_new)]
    _set(node, 1, "repeats", times)


def _drop(graph: fx.Graph, node: Any, shapes: _Shapes) -> None:
    graph.erase_node(node)


_FIXERS: dict[str, Fixer] = {
    **dict.fromkeys(
        ("view", "reshape", "_unsafe_view", "expand", "new_zeros", "new_ones", "new_full", "new_empty", "broadcast_to"),
        _shape_at(1),
    ),
    **dict.fromkeys(("zeros", "ones", "full", "empty", "rand", "randn"), _shape_at(0)),
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), _fix_split),
    **dict.fromkeys(
        ("conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"),
        _fix_convolution,
    ),
    "slice": _fix_slice,
    "unflatten": _fix_unflatten,
    "layer_norm": _fix_layer_norm,
    "rms_norm": _fix_layer_norm,
    "group_norm": _fix_group_norm,
    "pad": _fix_pad,
    "constant_pad_nd": _fix_pad,
    "repeat": _fix_repeat,
    "_assert_tensor_metadata": _drop,
}
