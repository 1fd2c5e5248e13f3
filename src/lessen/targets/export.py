"""The float network as an ONNX graph whose weights still carry their torch names."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..errors import LessenError, extra
from ..models.quiet import quiet
from .graph import drop_unused, run_onnx
from .locate import PARAMETER, PERMUTED
from .tidy import tidied

OPSET = 18
LEAST_OPSET = 13  # the first whose DequantizeLinear has an axis
ROUNDING = 10.0  # times torch's own rounding errors, where the outputs are as small as these
TOLERANCE = 1e-3  # of the largest output; float32 kernels differ by about 1e-5 a layer


def float_onnx(module: nn.Module, inputs: tuple[Tensor, ...], fixed: bool = False) -> ir.Model:
    """The network in float32 as ONNX, batch (and the length of token inputs) left open where that is possible.

    Args:
        module: in evaluation mode. A network that came from ONNX gives its own graph back.
        inputs: one batch of example inputs, in the order of `forward`.
        fixed: for these sizes only, which takes half the time.

    Returns:
        a graph with constants folded and parameters as initializers under their torch names; they share the memory of
        the network, which must not change while the graph is in use. ONNX Runtime was asked to run it and agreed
        with torch.

    Raises:
        LessenError: the network can't be exported, or the exported graph computes something else.
    """
    if callable(getattr(module, "to_onnx", None)):
        with quiet():
            model = tidied(_named(as_ir(module.to_onnx()), module))  # type: ignore[operator]
    else:
        model = _optimized(_exported(_without_parametrizations(module), inputs, fixed))
    _check(model, module, inputs)
    return model


def as_ir(model: Any) -> ir.Model:
    """The graph, in an operator set that has integer weights with a scale for each channel."""
    model = model if isinstance(model, ir.Model) else ir.from_proto(model)
    if model.graph.opset_imports.get("", OPSET) >= LEAST_OPSET:
        return model
    from onnx import version_converter

    try:
        return ir.from_proto(version_converter.convert_version(ir.to_proto(model), LEAST_OPSET))
    except Exception as error:
        have = model.graph.opset_imports.get("")
        raise LessenError(
            f"operator set {have} has no per-channel integers, and converting it to {LEAST_OPSET} failed: {error}",
            mend=f"export the network again with opset {LEAST_OPSET} or later",
        ) from error


def _named(model: ir.Model, module: Any) -> ir.Model:
    """Notes at each initializer which parameter it holds; a recurrent one holds several and gets no note."""
    held: dict[str, list[str]] = {}
    for name, _ in module.named_parameters():
        held.setdefault(module.initializer_of(name)[0], []).append(name)
    for key, names in held.items():
        if len(names) == 1 and key in model.graph.initializers:
            model.graph.initializers[key].metadata_props[PARAMETER] = names[0]
    return model


def _without_parametrizations(module: nn.Module) -> nn.Module:
    if not any(parametrize.is_parametrized(m) for m in module.modules()):
        return module
    plain = copy.deepcopy(module)
    for part in list(plain.modules()):
        if parametrize.is_parametrized(part):
            # Not remove_parametrizations: it edits the class, which the copy shares with the original.
            names: list[str] = list(part.parametrizations)  # type: ignore[arg-type]
            values = {name: getattr(part, name).detach().clone() for name in names}
            part.__class__ = type(part).__mro__[1]
            del part.parametrizations
            for name, value in values.items():
                part.register_parameter(name, nn.Parameter(value))
    return plain


def _exported(module: nn.Module, inputs: tuple[Tensor, ...], fixed: bool) -> ir.Model:
    failure: Exception | None = None
    for example, shapes in ((inputs, None),) if fixed else _attempts(inputs):
        try:
            with quiet(), torch.no_grad():
                program = torch.onnx.export(
                    module, example, dynamo=True, opset_version=OPSET, optimize=False, verbose=False,
                    dynamic_shapes=shapes,
                )  # fmt: skip
            assert program is not None
            return program.model
        except Exception as error:  # torch.export and the ONNX exporter raise anything
            failure = error
    with contextlib.suppress(Exception):
        return _recorded(module, inputs)
    cause = failure.__cause__ or failure if failure is not None else None
    why = (str(cause).strip().splitlines() or [""])[0][:300]
    raise LessenError(
        f"the network can't be exported to ONNX: {type(cause).__name__}: {why}",
        where=type(module).__name__,
        mend="see torch.export's documentation on what can be traced; or export it to ONNX yourself and give that file",
    ) from failure


def _recorded(module: nn.Module, inputs: tuple[Tensor, ...]) -> ir.Model:
    """The operators of one run, where torch.export can't follow the code: branches stay as these inputs went."""
    names = [f"input{i}" for i in range(len(inputs))]
    axes = {name: {0: "batch"} for name, x in zip(names, inputs, strict=True) if x.ndim}
    file = io.BytesIO()
    with quiet(), torch.no_grad():
        torch.onnx.export(
            module, inputs, file, dynamo=False,  # type: ignore[arg-type]
            opset_version=OPSET, input_names=names, dynamic_axes=axes,
            do_constant_folding=False,
        )  # fmt: skip
    return ir.from_proto(extra("onnx", "onnxruntime").load_model_from_string(file.getvalue()))


def _attempts(inputs: tuple[Tensor, ...]) -> Iterator[tuple[tuple[Tensor, ...], Any]]:
    """From the most general shapes to the given ones. torch.export takes an example size of 1 for a constant."""
    doubled = tuple(torch.cat([x, x]) if x.ndim and x.shape[0] == 1 else x for x in inputs)
    dynamic = torch.export.Dim.DYNAMIC
    tokens = [not x.is_floating_point() and x.ndim == 2 and x.shape[1] > 1 for x in inputs]
    batch = [{0: dynamic} if x.ndim else None for x in inputs]
    if any(tokens):
        yield doubled, tuple({0: dynamic, 1: dynamic} if t else b for t, b in zip(tokens, batch, strict=True))
    yield doubled, tuple(batch)
    yield inputs, None


def _optimized(model: ir.Model) -> ir.Model:
    from onnxscript import optimizer

    _detach(model)
    _fold_transposes(model)
    with quiet():
        optimizer.optimize(model)
        gates = _gates(model)
        if gates:
            optimizer.fold_constants(model, should_fold=lambda node: True if node in gates else None)
    _name_batch(model)
    _forget_sources(model)
    return drop_unused(model)


def _gates(model: ir.Model) -> set[ir.Node]:
    """What puts the weights of recurrent layers together: folded whatever their size, or nobody would find them."""
    made = [n.inputs[i] for n in model.graph if n.op_type in ("LSTM", "GRU", "RNN") for i in (1, 2)]
    found: set[ir.Node] = set()
    while made:
        value = made.pop()
        node = None if value is None else value.producer()
        if node is not None and node not in found:
            found.add(node)
            made += node.inputs
    return found


def _detach(model: ir.Model) -> None:
    """Weights as plain arrays: the exporter's tensors hold its program. They lie where the network holds them."""
    for value in model.graph.initializers.values():
        array = value.const_value.numpy()  # type: ignore[union-attr]
        value.const_value = ir.tensor(array, name=value.name)


def _fold_transposes(model: ir.Model) -> None:
    """A weight that is only ever used transposed is stored transposed (a view of it), under its own name."""
    graph = model.graph
    for value in list(graph.initializers.values()):
        users = [node for node, _ in value.uses()]
        if not users or any(n.op_type != "Transpose" for n in users):
            continue
        rank = len(value.const_value.shape)  # type: ignore[union-attr]
        perms = {tuple(n.attributes.get_ints("perm", list(range(rank))[::-1])) for n in users}
        if len(perms) != 1:
            continue
        perm = perms.pop()
        array = value.const_value.numpy().transpose(perm)  # type: ignore[union-attr]
        value.const_value = ir.tensor(array, name=value.name)
        value.shape = ir.Shape(array.shape)
        value.metadata_props[PERMUTED] = ",".join(map(str, perm))
        for node in users:
            node.outputs[0].replace_all_uses_with(value)
        graph.remove(users, safe=True)


def _forget_sources(model: ir.Model) -> None:
    """The exporter notes lines of the user's source at every node: neither small nor ours to give away."""
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in [*model.graph.inputs, *model.graph.outputs]:
        value.metadata_props.clear()
    for value in model.graph.initializers.values():
        for key in [k for k in value.metadata_props if k != PERMUTED]:
            del value.metadata_props[key]
    model.metadata_props.clear()
    model.graph.metadata_props.clear()


def _name_batch(model: ir.Model) -> None:
    """Every open first dimension of an input is the batch; the exporter calls each by another symbol."""
    graph = model.graph
    symbols = {str(v.shape[0]) for v in graph.inputs if v.shape and not isinstance(v.shape[0], int)}
    values = [*graph.inputs, *(o for node in graph for o in node.outputs)]
    for value in values:
        if value.shape is not None:
            value.shape = ir.Shape(["batch" if str(d) in symbols else d for d in value.shape])


def _check(model: ir.Model, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    with torch.no_grad():
        wanted = flat_tensors(module(*inputs))
    got = run_onnx(model, [x.detach().numpy() for x in inputs])
    if len(wanted) != len(got):
        raise LessenError(f"the exported graph has {len(got)} outputs, the network {len(wanted)}")
    for i, (a, b) in enumerate(zip(wanted, got, strict=True)):
        expected = a.detach().double().numpy()
        error = float(np.abs(expected - b).max()) if expected.size else 0.0
        close = error <= TOLERANCE * max(float(np.abs(expected).max()), 1e-6) or error <= _rounding(module, inputs, i)
        if expected.shape != b.shape or not close:
            raise LessenError(
                f"output {i} of the exported graph differs from torch by {error:.3g}",
                where=type(module).__name__,
                mend="the network computes something that ONNX can't express; export it to ONNX yourself and compare",
            )


def _rounding(module: nn.Module, inputs: tuple[Tensor, ...], output: int) -> float:
    """`ROUNDING` times what torch's own float32 is off at an output that is nothing but what others left over.

    0 where the network does not run in float64.
    """
    try:
        with torch.no_grad():
            exact = copy.deepcopy(module).double()(*(x.double() if x.is_floating_point() else x for x in inputs))
            off = flat_tensors(exact)[output] - flat_tensors(module(*inputs))[output]
            return ROUNDING * float(off.abs().max()) if off.numel() else 0.0
    except (RuntimeError, TypeError, ValueError):
        return 0.0


def flat_tensors(outputs: Any) -> Sequence[Tensor]:
    """All tensors in a nest of tuples, lists, dicts and dataclasses, in order."""
    return [t for t in torch.utils._pytree.tree_leaves(outputs) if isinstance(t, Tensor)]
