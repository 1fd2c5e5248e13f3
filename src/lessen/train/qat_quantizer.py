"""Fake quantization with a gradient: what quantization-aware training computes with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..codings.grid import odd_

Total = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Slope:
    """How a step learns.

    Args:
        of: (gradient at the output, what of it passes to the input, input, output, total) -> derivative of the loss by
            the logarithm of the step; total(a, b) sums a * b over all that share a step.
        decay: weight in the loss of the squared end of the range.
        speed: a step moves by its own size times this, times the learning rate: what Adam does to all parameters.
    """

    of: Callable[[Tensor, Tensor, Tensor, Tensor, Total], Tensor]
    decay: float = 0.0
    speed: float = 1.0


class _FakeQuantize(torch.autograd.Function):
    """round(clip(x / step, low, high)) * step; the gradient passes inside the range (Bengio et al. 2013)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, low: Any, high: Any, slope: Slope | None, odd: Any) -> Tensor:
        y = (x / step).clamp_(low, high)
        y = (y.round_() if odd is None else odd_(y.add_(odd)).sub_(odd)).mul_(step)
        ctx.save_for_backward(x, y, step)
        ctx.low, ctx.high, ctx.slope = low, high, slope
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x, y, step), (g,) = ctx.saved_tensors, grads
        passed = _inside(g, x, step, ctx.low, ctx.high)
        learned = None
        if ctx.slope is not None and ctx.needs_input_grad[1]:
            learned = ctx.slope.of(g, passed, x, y, partial(_total, step.shape)) / step
            learned = learned + 2 * ctx.slope.decay * step * ctx.high**2
        return passed, learned, None, None, None, None


def _total(shape: torch.Size, a: Tensor, b: Tensor) -> Tensor:
    """Sum of a * b down to this shape."""
    if shape.numel() == 1 and a.stride() == b.stride() and _dense(a):  # no product is written to memory
        return torch.dot(a.as_strided((a.numel(),), (1,)), b.as_strided((b.numel(),), (1,))).reshape(shape)
    return (a * b).sum_to_size(shape)


def _dense(x: Tensor) -> bool:
    return x.is_contiguous() or (x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last))


def _inside(g: Tensor, x: Tensor, step: Tensor, low: Any, high: Any) -> Tensor:
    """The gradient where x lies in the range, 0 elsewhere."""
    if step.numel() == 1 and not isinstance(low, Tensor):  # one pass over memory; activations are large
        end = float(step)
        passed: Tensor = torch.ops.aten.hardtanh_backward(g, x, low * end, high * end)
        return passed
    return g * ((x >= low * step) & (x <= high * step))


def fake_quantized(x: Tensor, step: Tensor, low: Any, high: Any) -> Tensor:
    """`x` on the grid of this step; codes lie in [low, high] (numbers, or tensors that broadcast)."""
    return (x / step).clamp(low, high).round() * step


class FakeQuantize(nn.Module):
    """What a quantized activation carries: one step, codes from `low` to `high`, 0 among them.

    Simulated: it computes in float what integers of `bits` bits would.
    """

    step: Tensor

    def __init__(self, step: Tensor, low: int, high: int) -> None:
        super().__init__()
        self.register_buffer("step", step.detach().clone())
        self.low, self.high = low, high

    @property
    def bits(self) -> int:
        return (self.high - self.low).bit_length()

    def forward(self, x: Tensor) -> Tensor:
        return fake_quantized(x, self.step, self.low, self.high)

    def extra_repr(self) -> str:
        return f"bits={self.bits}, range=[{self.low * float(self.step):.4g}, {self.high * float(self.step):.4g}]"


class Learner(nn.Module):
    """A fake quantizer in training: its step is learned where there is a slope, else it stays.

    The step is learned as its logarithm: Adam moves every parameter by about the learning rate whatever the gradient's
    size, which is far too much for a small step and nothing for a large one.

    Args:
        step: where it starts, in a shape that broadcasts with what will be quantized; positive.
        low, high: least and greatest code.
        slope: the algorithm.
        odd: zero points of an odd `Grid`, like `step`; None for whole codes.
    """

    start: Tensor

    def __init__(self, step: Tensor, low: Any, high: Any, slope: Slope | None, odd: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("start", step.detach().clone().clamp_min(torch.finfo(torch.float32).tiny))
        self.low, self.high, self.slope, self.odd = low, high, slope, odd
        self.grown = nn.Parameter(torch.zeros_like(self.start), requires_grad=slope is not None)

    @property
    def step(self) -> Tensor:
        return self.start * (self.grown * self.slope.speed).exp() if self.slope is not None else self.start

    def forward(self, x: Tensor) -> Tensor:
        quantized: Tensor = _FakeQuantize.apply(x.float(), self.step, self.low, self.high, self.slope, self.odd)
        return quantized

    def frozen(self) -> FakeQuantize:
        """The same without a gradient, as an activation keeps it."""
        return FakeQuantize(self.step, int(self.low), int(self.high))
