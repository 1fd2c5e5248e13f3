"""The judge: the original network at full width, with the removed indices made to count for nothing."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from lessen.errors import LessenError
from lessen.models.groups.flow import Limit
from lessen.models.groups.readers import consumed
from lessen.models.groups.trace import Inputs, Op, Ref, call, plain_eval, tensor_names, tensors
from lessen.models.surgery.cut import Cut


class _Masked(TorchDispatchMode):
    """Runs the original; at the recorded limits, removed indices are zeroed or left out."""

    def __init__(self, cut: Cut) -> None:
        super().__init__()
        self.cut, self.at, self.single = cut, 0, False
        self.limits: dict[int, list[Limit]] = {}
        for limit in cut.flow.limits:
            if any(cut.lost(labels).any() for _, _, labels in limit.cuts):
                self.limits.setdefault(limit.op, []).append(limit)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        ops = self.cut.trace.ops
        if self.at >= len(ops) or ops[self.at].func is not func:
            raise LessenError(
                f"the network does not do the same twice ({func} instead of {ops[min(self.at, len(ops) - 1)]})",
                mend="make its forward deterministic",
            )
        op, found = ops[self.at], self.limits.get(self.at, [])
        self.at += 1
        given = list(args)
        for limit in found:
            for place, dim, labels in limit.cuts:
                lost = torch.from_numpy(self.cut.lost(labels))
                given[place] = _without(given[place], dim, lost, limit.mode)
        out = func(*_counted(op, given), **(kwargs or {}))
        out = self._restored(op, out) if any(limit.mode == "keep" for limit in found) else out
        if any(isinstance(t, Tensor) and t.dtype in (torch.float32, torch.float16) for t in tree_flatten(out)[0]):
            self.single = True
        return out

    def _restored(self, op: Op, out: Any) -> Any:
        """Back to full width, zeros where indices were left out."""
        leaves, spec = tree_flatten(out)
        full = [self._widened(r, v) if isinstance(r, Ref) else v for r, v in zip(op.outs, leaves)]
        return tree_unflatten(full, spec)

    def _widened(self, ref: Ref, value: Tensor) -> Tensor:
        for dim, labels in enumerate(self.cut.flow.dims(ref)):
            if value.shape[dim] != ref.shape[dim] and labels is not None:
                kept = torch.from_numpy(~self.cut.lost(labels)).nonzero()[:, 0]
                shape = [*value.shape[:dim], ref.shape[dim], *value.shape[dim + 1 :]]
                value = value.new_zeros(shape).index_copy(dim, kept, value)
        return value


def _without(value: Tensor, dim: int, lost: Tensor, mode: str) -> Tensor:
    if mode == "keep":
        return value.index_select(dim, (~lost).nonzero()[:, 0])
    return value.index_fill(dim, lost.nonzero()[:, 0], 0)


def _counted(op: Op, args: list) -> list:
    """Counts of channels among the arguments follow the tensors."""
    name = op.func._schema.name.removeprefix("aten::")
    if name in {"native_layer_norm", "_fused_rms_norm"} and isinstance(args[0], Tensor):
        args[1] = [*op.args[1][:-1], args[0].shape[-1]]
    if name == "native_group_norm":
        args[4] = args[0].shape[1]
    return args


def masked_outputs(model: nn.Module, inputs: Inputs, cut: Cut) -> tuple[list[Tensor], bool]:
    """Outputs of the original with the consumers' columns of the removed units at zero.

    Returns:
        The outputs, and whether some value on the way was in single precision.
    """
    masked, mode = copy.deepcopy(model), _Masked(cut)
    _zero_columns(masked, cut)
    with plain_eval(masked), mode:
        out = call(masked, inputs)
    return tensors(out), mode.single


def _zero_columns(model: nn.Module, cut: Cut) -> None:
    read, named = consumed(cut.flow), tensor_names(model)
    for start, stop, path, dim in cut.flow.owners:
        lost = cut.gone[cut.root[start:stop]]
        if ".parametrizations." not in path and lost.any() and (path, dim) in read:
            with torch.no_grad():
                named[path].index_fill_(dim, torch.from_numpy(lost).nonzero()[:, 0], 0)


def distance(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Largest difference relative to the largest value."""
    gaps = [
        (a - b).abs().nan_to_num(0, 0, 0).max().item() / max(b.abs().nan_to_num(0, 0, 0).max().item(), 1e-3)
        for a, b in zip(ours, theirs)
        if b.is_floating_point() and b.numel()
    ]
    return max(gaps, default=0.0)


def disagreement(ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> str:
    """What differs, or an empty string."""
    if len(ours) != len(theirs):
        return f"{len(ours)} outputs instead of {len(theirs)}"
    for i, (a, b) in enumerate(zip(ours, theirs)):
        if a.shape != b.shape:
            return f"output {i} has shape {tuple(a.shape)} instead of {tuple(b.shape)}"
        if not a.is_floating_point():
            if not torch.equal(a, b):
                return f"output {i} differs"
            continue
        finite = torch.isfinite(b)
        if not torch.equal(finite, torch.isfinite(a)):
            return f"output {i} is not finite where the masked network is"
        gap = (a - b)[finite].abs().max().item() if finite.any() else 0.0
        scale = b[finite].abs().max().item() if finite.any() else 0.0
        if gap > tolerance * max(scale, 1e-3):
            return f"output {i} differs from the masked network by {gap:.2g} (largest value {scale:.2g})"
    return ""
