"""Operations that work element by element, with broadcasting; and tensors made in the code."""

from __future__ import annotations

from collections.abc import Sequence

from lessen.models.groups.flow import Flow, Labels
from lessen.models.groups.rules.registry import nothing, rule
from lessen.models.groups.trace import Op, Ref


def broadcast(flow: Flow, refs: Sequence[Ref], shape: tuple[int, ...], op: Op) -> list[Labels]:
    """Align from the right; dimensions of one size are one dimension."""
    out: list[Labels] = [None] * len(shape)
    for back in range(1, len(shape) + 1):
        size = shape[-back]
        if size > 1:
            seen = [flow.dims(r)[-back] for r in refs if r.ndim >= back and r.shape[-back] == size]
            out[-back] = flow.join(seen, f"combined with values of fixed width ({op})")
    return out


@rule(
    "where",
    "masked_fill",
    "masked_fill_",
    "copy_",
    "fill_",
    "zero_",
    "lerp",
    "addcmul",
    "addcdiv",
    "clamp",
    "clone",
    "detach",
    "detach_",
    "alias",
    "lift_fresh",
    "_to_copy",
    "zeros_like",
    "ones_like",
    "full_like",
    "empty_like",
    "rand_like",
    "randn_like",
    "dropout",
    "native_dropout",
    "bernoulli",
    "_reshape_alias",
    "silu_",
    "relu_",
    "gelu_",
    "bernoulli_",
    "uniform_",
    "normal_",
    "_fused_dropout",
    "prelu",
    "hardswish",
    "hardswish_",
    "hardtanh",
    "hardtanh_",
    "hardsigmoid",
    "hardsigmoid_",
    "leaky_relu",
    "leaky_relu_",
    "elu",
    "elu_",
    "celu",
    "selu",
    "mish",
    "mish_",
    "softplus",
    "log_sigmoid_forward",
    "threshold",
    "relu6",
    "silu",
    "gelu",
    "fake_quantize_per_tensor_affine",
    "nan_to_num",
    "logical_not",
    "isnan",
    "isinf",
    "bitwise_not",
    "rrelu_with_noise",
    "to",
    "contiguous",
    "isin",
)
def pointwise(flow: Flow, op: Op) -> list[list[Labels]]:
    """Every tensor is broadcast to the output."""
    return [broadcast(flow, op.refs, r.shape, op) if isinstance(r, Ref) else [] for r in op.outs]


@rule("_prelu_kernel")
def prelu(flow: Flow, op: Op) -> list[list[Labels]]:
    """x [n, c, ...], weight already shaped to broadcast."""
    return pointwise(flow, op)


@rule(
    "zeros",
    "ones",
    "empty",
    "full",
    "new_zeros",
    "new_ones",
    "new_empty",
    "new_full",
    "rand",
    "randn",
    "empty_strided",
    "new_empty_strided",
)
def make(flow: Flow, op: Op) -> list[list[Labels]]:
    """Uniform values made in the code: as wide as whoever meets them."""
    return [[flow.fresh(s, flexible=True) if s > 1 else None for s in op.out.shape]]


@rule(
    "arange",
    "linspace",
    "scalar_tensor",
    "eye",
    "tril_indices",
    "triu_indices",
    "_local_scalar_dense",
    "randperm",
    "nonzero",
    "one_hot",
    "bincount",
    "unique_consecutive",
    "_unique2",
    "sym_size",
    "is_same_size",
    "equal",
    "_assert_async",
    "_assert_scalar",
    "_assert_tensor_metadata",
)
def fixed(flow: Flow, op: Op) -> list[list[Labels]]:
    """Values whose width the code alone decides."""
    for ref in op.refs:
        for labels in flow.dims(ref):
            flow.block(labels, f"its values are read by the code ({op})")
    return nothing(op)
