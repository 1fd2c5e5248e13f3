"""Attention, rotary embeddings, cache updates, and losses."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .values import Attributes, Op, torch_dtype


def _heads(x: Tensor, count: int | None) -> Tensor:
    """[batch, steps, heads*size] as [batch, heads, steps, size]."""
    if x.dim() == 4 or count is None:
        return x
    return x.reshape(x.shape[0], x.shape[1], count, x.shape[2] // count).transpose(1, 2)


def _bias(a: Attributes, q: Tensor, keys: Any, mask: Tensor | None, past: Any, filled: Tensor | None) -> Tensor | None:
    """What is added to the scores: the mask, the causal edge, the window, the padding; None when nothing is."""
    bias = _mask_bias(mask, keys, q.dtype)
    left, right = a.get("left_window_size", -1), a.get("right_window_size", -1)
    right = 0 if a.get("is_causal", 0) else right
    if right < 0 and left < 0 and filled is None:
        return bias
    j = torch.arange(keys, device=q.device)
    i = torch.arange(q.shape[2], device=q.device).unsqueeze(1)
    if filled is not None and past is None:
        i = i + (filled - q.shape[2]).reshape(-1, 1, 1, 1)
    elif past is not None:
        i = i + past.shape[2]
    allowed = torch.ones_like(j - i, dtype=torch.bool)
    allowed = allowed if right < 0 else allowed & (j <= i + right)
    allowed = allowed if left < 0 else allowed & (j >= i - left)
    if filled is not None:
        allowed = allowed & (j < filled.reshape(-1, 1, 1, 1))
    edge = torch.zeros(allowed.shape, dtype=q.dtype, device=q.device).masked_fill(~allowed, -math.inf)
    return edge if bias is None else edge + bias


def _mask_bias(mask: Tensor | None, keys: Any, dtype: torch.dtype) -> Tensor | None:
    if mask is None:
        return None
    if mask.dtype is torch.bool:
        mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, -math.inf)
    missing = keys - mask.shape[-1]
    return F.pad(mask, (0, missing), value=-math.inf) if missing else mask


def _attention(a: Attributes, q: Tensor, k: Tensor, v: Tensor, mask: Any = None, past_k: Any = None,
               past_v: Any = None, filled: Any = None) -> Any:  # fmt: skip
    flat, count = q.dim() == 3, a.get("kv_num_heads")
    q, k, v = _heads(q, a.get("q_num_heads")), _heads(k, count), _heads(v, count)
    k = k if past_k is None else torch.cat([past_k, k], 2)
    v = v if past_v is None else torch.cat([past_v, v], 2)
    present = (k, v)
    if q.shape[1] != k.shape[1]:
        k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
    bias = _bias(a, q, k.shape[2], mask, past_k, filled)
    scores, weights, logits = _weights(a, q, k, bias)
    y = weights.to(q.dtype) @ v
    y = y.transpose(1, 2).flatten(2) if flat else y
    shown = (scores[0], scores[1], logits, weights)[a.get("qk_matmul_output_mode", 0)]
    return (y, *present, shown.to(q.dtype))[: a.outputs]


def _weights(a: Attributes, q: Tensor, k: Tensor, bias: Tensor | None) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
    """Scores (raw, capped), softmax weights (rows with nothing to attend to are 0), and biased scores."""
    root = math.sqrt(a.get("scale") or 1.0 / math.sqrt(q.shape[-1]))
    raw = (q * root) @ (k * root).transpose(-1, -2)
    cap = a.get("softcap", 0.0)
    capped = torch.tanh(raw / cap) * cap if cap else raw
    logits = capped if bias is None else capped + bias
    precise = logits.to(torch_dtype(a.get("softmax_precision"))) if a.get("softmax_precision") else logits
    weights = torch.softmax(precise, -1)
    if bias is not None:
        weights = weights.masked_fill(bias.amax(-1, keepdim=True) == -math.inf, 0.0)
    return (raw, capped), weights, logits


def _rotary(a: Attributes, x: Tensor, cos: Tensor, sin: Tensor, position: Tensor | None = None) -> Tensor:
    flat, heads = x.dim() == 3, a.get("num_heads", 0)
    y = x.reshape(*x.shape[:2], heads, -1) if flat else x.transpose(1, 2)  # [batch, steps, heads, size]
    size = a.get("rotary_embedding_dim", 0) or y.shape[-1]
    if position is not None:
        cos, sin = cos[position], sin[position]
    cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
    turned, rest = y[..., :size], y[..., size:]
    first, second = (turned[..., 0::2], turned[..., 1::2]) if a.get("interleaved", 0) else turned.chunk(2, -1)
    real, imaginary = cos * first - sin * second, sin * first + cos * second
    if a.get("interleaved", 0):
        turned = torch.stack([real, imaginary], -1).flatten(-2)
    else:
        turned = torch.cat([real, imaginary], -1)
    y = torch.cat([turned, rest], -1)
    return y.reshape(x.shape) if flat else y.transpose(1, 2)


def _tensor_scatter(a: Attributes, cache: Tensor, update: Tensor, start: Tensor | None = None) -> Tensor:
    axis = a.get("axis", -2) % cache.dim()
    first = torch.zeros(cache.shape[0], dtype=torch.int64, device=cache.device) if start is None else start
    where = first.unsqueeze(1) + torch.arange(update.shape[axis], device=cache.device)
    where = where % cache.shape[axis] if a.get("mode", "linear") == "circular" else where
    shape = [1] * cache.dim()
    shape[0], shape[axis] = where.shape
    return cache.scatter(axis, where.reshape(shape).expand_as(update), update)


def _nll(a: Attributes, x: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    ignored = a.get("ignore_index", -100)
    return F.nll_loss(x, target.to(torch.int64), weight, ignore_index=ignored, reduction=a.get("reduction", "mean"))


def _cross_entropy(a: Attributes, x: Tensor, target: Tensor, weight: Tensor | None = None) -> Any:
    logs = torch.log_softmax(x, 1)
    return (_nll(a, logs, target, weight), logs)[: a.outputs]


def _skip_layer_norm(a: Attributes, x: Tensor, skip: Tensor, gamma: Tensor, beta: Any = None, bias: Any = None) -> Any:
    total = x + skip if bias is None else x + skip + bias
    y = F.layer_norm(total, gamma.shape, gamma, beta, a.get("epsilon", 1e-12))
    return (y, None, None, total)[: a.outputs]


OPS: dict[str, Op] = {
    "Attention": Op(_attention), "RotaryEmbedding": Op(_rotary), "TensorScatter": Op(_tensor_scatter),
    "NegativeLogLikelihoodLoss": Op(_nll), "SoftmaxCrossEntropyLoss": Op(_cross_entropy),
    "SwiGLU": Op(lambda a, x, y: x * torch.sigmoid(a.get("alpha", 1.0) * x) * y),
    "com.microsoft::SkipLayerNormalization": Op(_skip_layer_norm),
}  # fmt: skip
