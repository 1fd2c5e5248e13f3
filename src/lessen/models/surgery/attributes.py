"""Numbers that modules keep beside their weights, put right after the weights have been cut."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Container, Iterator
from typing import Any

from torch import nn

from lessen.models.groups.grouping import module_of
from lessen.models.groups.trace import Op, Ref
from lessen.models.surgery.cut import Cut
from lessen.models.surgery.edits import Setting

_SHAPED = {
    "view",
    "_unsafe_view",
    "reshape",
    "expand",
    "split",
    "split_with_sizes",
    "slice",
    "unsafe_split",
    "zeros",
    "ones",
    "full",
    "empty",
    "new_zeros",
    "new_ones",
    "new_full",
    "repeat",
    "chunk",
    "narrow",
    "new_empty",
    "unsafe_split_with_sizes",
    "native_layer_norm",
    "constant_pad_nd",
}
_NEVER = re.compile(r"image|patch|window|kernel|stride|vocab|length|position|layer|^pad|_id$|dilation|training")
_COUNTS = re.compile(r"heads?s?$|(^|_)nheads?|num_(attention_)?heads|n_heads?|experts")


def standard_settings(model: nn.Module, cut: Cut) -> list[Setting]:
    """Attributes of PyTorch's own layers, from the weights they hold now."""
    found = [s for name, module in model.named_modules() for s in _of_layer(name, module)]
    return [*found, *_of_groups(model, cut)]


def _of_layer(name: str, m: nn.Module) -> Iterator[Setting]:
    shape = tuple(w.shape) if isinstance(w := getattr(m, "weight", None), nn.Parameter) else None
    pairs: dict[str, Any] = {}
    if isinstance(m, nn.Linear) and shape:
        pairs = {"out_features": shape[0], "in_features": shape[1]}
    elif isinstance(m, nn.modules.batchnorm._NormBase):
        stats = m.running_mean if m.running_mean is not None else getattr(m, "weight", None)
        pairs = {"num_features": stats.shape[0]} if stats is not None else {}
    elif isinstance(m, nn.Embedding) and shape:
        pairs = {"num_embeddings": shape[0], "embedding_dim": shape[1]}
    elif isinstance(m, (nn.LayerNorm, nn.RMSNorm)) and shape:
        pairs = {"normalized_shape": shape}
    elif isinstance(m, nn.GroupNorm) and shape:
        pairs = {"num_channels": shape[0]}
    elif isinstance(m, nn.RNNBase):
        held: Any = m
        pairs = {"hidden_size": held.weight_hh_l0.shape[1], "input_size": held.weight_ih_l0.shape[1]}
    elif isinstance(m, nn.RNNCellBase):
        pairs = {"hidden_size": m.weight_hh.shape[1], "input_size": m.weight_ih.shape[1]}
    elif isinstance(m, nn.MultiheadAttention):
        yield from _of_attention(name, m)
    elif type(m).__name__ == "Conv1D" and shape and hasattr(m, "nf"):
        pairs = {"nx": shape[0], "nf": shape[1]}
    for attribute, value in pairs.items():
        if hasattr(m, attribute) and getattr(m, attribute) != value:
            yield Setting(name, attribute, value)


def _of_attention(name: str, m: nn.MultiheadAttention) -> Iterator[Setting]:
    width, inner = m.out_proj.weight.shape
    if inner == m.num_heads * m.head_dim and width == m.embed_dim:
        return
    yield Setting(name, "embed_dim", width)
    yield Setting(name, "num_heads", inner // m.head_dim)
    yield Setting(name, "_qkv_same_embed_dim", False)  # keeps the fused kernel away
    yield Setting(name, "class", "ShrunkAttention")


def _of_groups(model: nn.Module, cut: Cut) -> Iterator[Setting]:
    """Numbers of groups and channels of convolutions and group norms: only the operations tell."""
    modules = dict(model.named_modules())
    for op in cut.trace.ops:
        kind = op.func._schema.name.removeprefix("aten::")
        weight = op.args[1] if kind in {"convolution", "native_group_norm"} else None
        path = cut.trace.params.get(weight.id) if isinstance(weight, Ref) else None
        module = modules.get(module_of(path)) if path else modules.get(op.module)
        if kind == "convolution" and isinstance(module, nn.modules.conv._ConvNd):
            channels, shape = cut.shape(op.args[0])[1], cut.shape(op.args[1])
            groups = op.args[8]
            if groups > 1:
                groups = groups * channels // op.args[0].shape[1] if op.args[6] else channels // shape[1]
                if op.args[6] and shape[1] != op.args[1].shape[1]:
                    groups = op.args[8]
            out = cut.shape(op.out)[1]
            name = module_of(path) if path else op.module
            yield from _changed(module, name, in_channels=channels, out_channels=out, groups=groups)
        elif kind == "native_group_norm" and isinstance(module, nn.GroupNorm):
            name = module_of(path) if path else op.module
            yield from _changed(module, name, num_groups=norm_groups(cut, op), num_channels=cut.shape(op.args[0])[1])


def norm_groups(cut: Cut, op: Op) -> int:
    """Groups that a group norm has left: all of them if each lost channels."""
    before, after, groups = op.args[0].shape[1], cut.shape(op.args[0])[1], op.args[6]
    within = any(limit.op == op.index for limit in cut.flow.limits)
    return groups if within else groups * after // before


def _changed(module: nn.Module, name: str, **values: int) -> Iterator[Setting]:
    for attribute, value in values.items():
        if getattr(module, attribute) != value:
            yield Setting(name, attribute, value)


def generic_settings(model: nn.Module, cut: Cut, reach: int, bold: Container[str] = ()) -> list[Setting]:
    """Integers of other modules that equal a size which their own operations use, and which has changed.

    Args:
        reach: 0: the module that runs the operation; 1: its parent too; and so on.
        bold: names of numbers to change also where a dimension of the same size stays as it is.
    """
    wanted, modules = _wanted(cut, reach), dict(model.named_modules())
    return [
        Setting(path, name, new)
        for path in wanted
        if path in modules
        for name, value in _numbers(modules[path])
        if (new := _renewed(name, value, wanted[path], bold)) != value
    ]


def ambiguous(model: nn.Module, cut: Cut) -> list[str]:
    """Names of numbers that equal a size which changes in one place and stays in another."""
    wanted, modules = _wanted(cut, 0), dict(model.named_modules())
    numbers = [(name, value, wanted[p]) for p in wanted if p in modules for name, value in _numbers(modules[p])]
    return sorted({n for n, v, sizes in numbers if _renewed(n, v, sizes, ()) != _renewed(n, v, sizes, (n,))})


def _wanted(cut: Cut, reach: int) -> dict[str, dict[int, set[int]]]:
    """For each module: size → the sizes that it becomes in the module's operations."""
    wanted: dict[str, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
    for op in cut.trace.ops:
        if op.func._schema.name.removeprefix("aten::") in _SHAPED:
            for old, new in _sizes(cut, op):
                path = op.module
                for _ in range(reach + 1):
                    wanted[path][old].add(new)
                    path = path.rpartition(".")[0]
    return wanted


def _sizes(cut: Cut, op: Op) -> Iterator[tuple[int, int]]:
    for out in op.outs:
        if isinstance(out, Ref):
            yield from zip(out.shape, cut.shape(out))
    name = op.func._schema.name.removeprefix("aten::")
    if name == "slice" and len(op.args) > 2:
        dim = op.args[1] % op.args[0].ndim
        for end in op.args[2:4]:
            if isinstance(end, int) and 0 < end <= op.args[0].shape[dim]:
                yield end, cut.kept_before(op.args[0], dim, end)
    if name == "view" and len(op.out.shape) > 2:  # products of neighbours are kept as numbers too
        old, new = op.out.shape, cut.shape(op.out)
        for i in range(1, len(old) - 1):
            yield old[i] * old[i + 1], new[i] * new[i + 1]


def _numbers(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """The integers, and tuples of them, that a module or its configuration holds."""
    if type(module).__module__.startswith("torch.nn."):
        return
    for name, value in list(vars(module).items()):
        if _is_number(name, value):
            yield name, value
        elif name in {"config", "cfg", "args"} and hasattr(value, "__dict__"):
            yield from ((f"{name}.{k}", v) for k, v in list(vars(value).items()) if _is_number(k, v))


def _is_number(name: str, value: Any) -> bool:
    if name.startswith("_") or _NEVER.search(name):
        return False
    return type(value) is int or (
        isinstance(value, (tuple, list)) and bool(value) and all(type(v) is int for v in value)
    )


def _renewed(name: str, value: Any, sizes: dict[int, set[int]], bold: Container[str]) -> Any:
    if isinstance(value, int):
        return _new(name, value, sizes, bold)
    return type(value)(_new(name, v, sizes, bold) for v in value)


def _new(name: str, value: int, sizes: dict[int, set[int]], bold: Container[str]) -> int:
    """The size that stands where `value` stood; where two dimensions had this size, the name decides."""
    options = sizes.get(value, set())
    changed = sorted(options - {value})
    if not changed or value <= 1:
        return value
    if value in options and name not in bold and not _COUNTS.search(name):
        return value
    return changed[0]
