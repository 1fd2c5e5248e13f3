"""Multi-head attention that may have fewer heads than its embedding width suggests."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


class ShrunkAttention(nn.MultiheadAttention):
    """`nn.MultiheadAttention` with heads removed: `in_proj` [3 h d, e], `out_proj` [e, h d], where h d < e.

    PyTorch's own forward takes the width of a head to be e / h. This one takes `head_dim` as it is.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As the original's; see there."""
        batched = query.ndim == 3
        if not batched:
            query, key, value = (t.unsqueeze(0) for t in (query, key, value))
        elif not self.batch_first:
            query, key, value = (t.transpose(0, 1) for t in (query, key, value))
        q, k, v = (self._heads(t) for t in self._project(query, key, value))
        mask = self._mask(query, attn_mask, key_padding_mask, batched)
        if need_weights:
            scores = q @ k.transpose(-1, -2) * self.head_dim**-0.5
            weights = (scores if mask is None else scores + mask).softmax(-1)
            mixed = F.dropout(weights, self.dropout, self.training) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0)
        out = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if not batched:
            out = out[0]
        elif not self.batch_first:
            out = out.transpose(0, 1)
        return out, self._weights(weights, average_attn_weights, batched) if need_weights else None

    def _project(self, *inputs: Tensor) -> list[Tensor]:
        parts: Any = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        if self.in_proj_weight is not None:
            parts = self.in_proj_weight.chunk(3)
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        return [F.linear(x, w, b) for x, w, b in zip(inputs, parts, biases)]

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _mask(self, query: Tensor, attn_mask: Tensor | None, padding: Tensor | None, batched: bool) -> Tensor | None:
        masks = []
        if attn_mask is not None:
            masks.append(attn_mask if attn_mask.ndim == 2 else attn_mask.unflatten(0, (-1, self.num_heads)))
        if padding is not None:
            masks.append((padding if batched else padding[None])[:, None, None, :])
        total = None
        for mask in masks:
            if not mask.is_floating_point():
                mask = query.new_zeros(mask.shape).masked_fill(mask, float("-inf"))
            total = mask if total is None else total + mask
        return total

    @staticmethod
    def _weights(weights: Tensor, average: bool, batched: bool) -> Tensor:
        weights = weights.mean(1) if average else weights
        return weights if batched else weights[0]


CLASSES = {"ShrunkAttention": ShrunkAttention}
