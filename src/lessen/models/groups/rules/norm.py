"""Reductions and normalizations: where the number of channels itself enters the value."""

from __future__ import annotations

from lessen.models.groups.flow import Flow, Labels
from lessen.models.groups.rules.pointwise import pointwise
from lessen.models.groups.rules.registry import arg, axis, nothing, rule
from lessen.models.groups.rules.shape import passing
from lessen.models.groups.trace import Op, Ref

_DIMS_FIRST = {"linalg_vector_norm": 2, "norm": 2, "median": 1}


def _reduced(op: Op, ndim: int) -> list[int]:
    place = _DIMS_FIRST.get(op.func._schema.name.removeprefix("aten::"), 1)
    given = arg(op, place, "dim")
    if given is None or isinstance(given, bool) or given == []:
        return list(range(ndim))
    return [axis(d, ndim) for d in (given if isinstance(given, (list, tuple)) else [given])]


@rule(
    "sum",
    "mean",
    "var",
    "std",
    "var_mean",
    "std_mean",
    "amax",
    "amin",
    "max",
    "min",
    "prod",
    "logsumexp",
    "any",
    "all",
    "linalg_vector_norm",
    "norm",
    "nansum",
    "_weight_norm_reduce",
)
def reduce(flow: Flow, op: Op) -> list[list[Labels]]:
    """Removed indices are not counted: the masked network reduces over the kept ones (a `Limit`)."""
    source = op.args[0]
    if len(op.args) > 1 and isinstance(op.args[1], Ref):  # max(a, b)
        return pointwise(flow, op)
    dims, gone = flow.dims(source), _reduced(op, source.ndim)
    labelled = [d for d in gone if dims[d] is not None]
    if labelled:
        flow.limit(op, "keep", [(0, d, dims[d]) for d in labelled])
    keepdim = op.out.ndim == source.ndim and source.ndim > 0
    out = [None if d in gone else x for d, x in enumerate(dims) if keepdim or d not in gone]
    return [list(out) if isinstance(r, Ref) else [] for r in op.outs]


@rule("argmax", "argmin", "topk", "sort", "cumsum", "cumprod", "argsort", "kthvalue", "logcumsumexp", "cummax")
def ordered(flow: Flow, op: Op) -> list[list[Labels]]:
    """The place along the dimension is part of the result."""
    name = op.func._schema.name.removeprefix("aten::")
    source = op.args[0]
    dim = arg(op, 2 if name in {"topk", "kthvalue"} else 1, "dim", None if name.startswith("arg") else -1)
    fixed = set(range(source.ndim)) if dim is None or isinstance(dim, bool) else {axis(dim, source.ndim)}
    dims = passing(flow, op, source, fixed if source.ndim else set(), "its order matters")
    if op.out.ndim < source.ndim:
        dims = [d for i, d in enumerate(dims) if i not in fixed]
    return [list(dims) if isinstance(r, Ref) else [] for r in op.outs]


@rule("_softmax", "_log_softmax", "softmax", "log_softmax", "_safe_softmax")
def softmax(flow: Flow, op: Op) -> list[list[Labels]]:
    """Over a dimension that can shrink, the masked network normalizes the kept ones."""
    dims = flow.dims(op.args[0])
    d = axis(op.args[1], len(dims))
    if dims and dims[d] is not None:
        flow.limit(op, "keep", [(0, d, dims[d])])
    return [dims]


@rule("native_layer_norm", "layer_norm", "_fused_rms_norm", "rms_norm")
def layer_norm(flow: Flow, op: Op) -> list[list[Labels]]:
    """x [..., c], weight [c], bias [c]: mean and variance are those of the kept channels."""
    x, shape = op.args[0], op.args[1]
    dims, n = flow.dims(x), len(op.args[1])
    affine = [(place, a) for place, a in enumerate(op.args) if place > 1 and isinstance(a, Ref)]
    for k in range(1, n + 1):
        seen = [flow.dims(a)[-k] for _, a in affine if shape[-k] > 1]
        dims[-k] = flow.join([dims[-k], *seen], f"combined with values of fixed width ({op})")
    if any(d is not None for d in dims[-n:]):
        if n > 1:
            passing(flow, op, x, set(range(x.ndim - n, x.ndim)), "normalized over several dimensions")
        flow.limit(op, "keep", [(place, -1, dims[-1]) for place in (0, *(p for p, _ in affine))])
    return [
        dims if i == 0 else [*dims[:-n], *[None] * (r.ndim - x.ndim + n)] if isinstance(r, Ref) else []
        for i, r in enumerate(op.outs)
    ]


@rule("native_group_norm", "group_norm")
def group_norm(flow: Flow, op: Op) -> list[list[Labels]]:
    """x [n, c, ...]: whole groups go (exact), or the same place in every group (statistics of the kept ones)."""
    x, weight, bias, groups = op.args[0], op.args[1], op.args[2], op.args[6]
    dims = flow.dims(x)
    params = [flow.dims(p)[0] for p in (weight, bias) if isinstance(p, Ref)]
    channels = flow.join([dims[1], *params], f"combined with values of fixed width ({op})")
    if channels is not None:
        size = len(channels)
        carriers = flow.split(channels, (groups, size // groups), op, 0 if groups > 1 else 1)
        if carriers[0] is None:
            cuts = [(i, 0, channels) for i, p in ((1, weight), (2, bias)) if isinstance(p, Ref)]
            flow.limit(op, "keep", [(0, 1, channels), *cuts])
    dims[1] = channels
    return [dims, *[[None] * r.ndim for r in op.outs[1:] if isinstance(r, Ref)]]


@rule(
    "native_batch_norm",
    "_native_batch_norm_legit_no_training",
    "_native_batch_norm_legit",
    "cudnn_batch_norm",
    "batch_norm",
    "_batch_norm_no_update",
    "miopen_batch_norm",
    "_batch_norm_impl_index",
)
def batch_norm(flow: Flow, op: Op) -> list[list[Labels]]:
    """x [n, c, ...] and its per-channel tensors [c]."""
    x = op.args[0]
    dims = flow.dims(x)
    vectors = [a for a in op.args[1:5] if isinstance(a, Ref) and a.shape == (x.shape[1],)]
    if x.shape[1] > 1:
        dims[1] = flow.join(
            [dims[1], *(flow.dims(v)[0] for v in vectors)], f"combined with values of fixed width ({op})"
        )
    return [dims, *[[None] * r.ndim if isinstance(r, Ref) else [] for r in op.outs[1:]]]


@rule("_weight_norm_interface", "_weight_norm")
def weight_norm(flow: Flow, op: Op) -> list[list[Labels]]:
    """v, g with one entry for each index of `dim`; `surgery` sets g so that the weight itself does not change."""
    v, g, dim = op.args[0], op.args[1], arg(op, 2, "dim", 0)
    dims = flow.dims(v)
    dims[dim] = flow.join([dims[dim], *([flow.dims(g)[dim]] if g.shape[dim] > 1 else [])], f"fixed width ({op})")
    if ".parametrizations." not in flow.trace.params.get(v.id, ""):  # nobody could put the norms right
        dims = passing(flow, op, v, set(range(v.ndim)) - {dim}, "normalized over") if v.ndim else dims
    norms = flow.dims(g)
    return [dims, *[norms for r in op.outs[1:] if isinstance(r, Ref)]]


@rule(
    "max_pool2d_with_indices",
    "max_pool3d_with_indices",
    "avg_pool2d",
    "avg_pool3d",
    "avg_pool1d",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "adaptive_avg_pool1d",
    "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "upsample_nearest1d",
    "upsample_nearest2d",
    "upsample_nearest3d",
    "upsample_bilinear2d",
    "upsample_bicubic2d",
    "upsample_linear1d",
    "upsample_trilinear3d",
    "_upsample_nearest_exact2d",
    "_upsample_nearest_exact1d",
    "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa",
    "grid_sampler_2d",
    "grid_sampler_3d",
    "max_unpool2d",
    "adaptive_avg_pool2d",
)
def pool(flow: Flow, op: Op) -> list[list[Labels]]:
    """Space changes, samples and channels pass."""
    source = op.args[0]
    space = {"1d": 1, "2d": 2, "3d": 3}
    name = op.func._schema.name
    n = next((v for k, v in space.items() if k in name), 2)
    n = 2 if "grid_sampler_2d" in name else n
    dims = passing(flow, op, source, set(range(source.ndim - n, source.ndim)), "resized in space")
    return [
        list(dims) if isinstance(r, Ref) and r.ndim == source.ndim else nothing(op)[i] for i, r in enumerate(op.outs)
    ]


@rule("tril", "triu", "tril_", "triu_")
def triangle(flow: Flow, op: Op) -> list[list[Labels]]:
    source = op.args[0]
    return [passing(flow, op, source, {source.ndim - 2, source.ndim - 1}, "its order matters")]


@rule("glu")
def glu(flow: Flow, op: Op) -> list[list[Labels]]:
    """First half times the sigmoid of the second."""
    dims = flow.dims(op.args[0])
    d = axis(arg(op, 1, "dim", -1), len(dims))
    if dims[d] is not None:
        half = len(dims[d]) // 2
        flow.tie(dims[d][:half], dims[d][half:])
        dims[d] = dims[d][:half]
    return [dims]


@rule("_fft_r2c", "_fft_c2c", "_fft_c2r")
def fourier(flow: Flow, op: Op) -> list[list[Labels]]:
    source = op.args[0]
    return [passing(flow, op, source, {axis(d, source.ndim) for d in op.args[1]}, "mixed by a Fourier transform")]


@rule("cdist", "_cdist_forward", "_euclidean_dist")
def distance(flow: Flow, op: Op) -> list[list[Labels]]:
    """a [..., m, k], b [..., n, k]: removed and zeroed coordinates add nothing to a distance."""
    a, b = op.args[0], op.args[1]
    flow.join([flow.dims(a)[-1], flow.dims(b)[-1]], f"fixed width ({op})")
    da = flow.dims(a)
    flow.limit(op, "keep", [(0, -1, da[-1]), (1, -1, da[-1])])
    return [[*da[:-1], flow.dims(b)[-2]]]
