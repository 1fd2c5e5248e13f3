"""From a float network to an `IntegerNet`: formats from ranges, weights in fixed point, a proof for every layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..codings import Grid
from ..errors import LessenError
from ..models.layer import Layer
from ..statistics.statistics import Statistics
from . import integer
from .fixed_point import FixedPoint
from .qformat import QFormat, accumulator_bits
from .table import check_whole

_MOST_SHIFT = 24  # a channel whose weights are finer than that gets coarser ones: its accumulator must hold its bias
_PRODUCTS = (nn.Conv2d, nn.Linear)
_RECTIFIERS = (nn.ReLU, nn.ReLU6)
_DROPPED = (nn.Identity, nn.Dropout, nn.Dropout2d)


def integer_net(
    net: nn.Sequential, samples: Tensor, bits: int = 8, statistics: Mapping[str, Statistics] | None = None
) -> integer.IntegerNet:
    """The network in integers and shifts alone; batch norms must have been folded.

    Weights are signed, with a binary point for each channel; activations have one for each tensor, where the squared
    error on `samples` is least, and no sign after a ReLU.

    Args:
        net: Conv2d and Linear, perhaps with a ReLU or ReLU6 after them, ReLU, MaxPool2d, AvgPool2d,
            AdaptiveAvgPool2d(1), Flatten, Dropout, Identity; in sequence.
        samples: float [n, ...], typical inputs.
        bits: of weights and activations, 4 to 16.
        statistics: by parameter name ("0.weight"), for error feedback; without one it rounds to nearest.

    Raises:
        LessenError: naming the layer: a module has no integer form, an accumulator could overflow 32 bits, or the
            samples are empty or not finite.
    """
    check_whole("integer_net", "bits", bits, 4, 16)
    if not samples.numel() or not bool(torch.isfinite(samples).all()):
        raise LessenError("samples are empty or not finite", where="integer_net", mend="give typical inputs")
    form = _best_format(samples, bits, False)
    half = 1 << bits - 1
    builder = _Builder(bits, statistics or {}, samples.float(), form.fraction, (-half, half - 1))
    for name, module, after in _in_turn(net):
        builder.add(name, module, after)
    return integer.IntegerNet(tuple(builder.steps), bits, form.fraction, builder.fraction)


def _in_turn(net: nn.Sequential) -> Iterator[tuple[str, nn.Module, nn.Module | None]]:
    """(name, module, the ReLU or ReLU6 that follows a product and is fused into it), nested sequences opened."""
    leaves = [
        (n, m) for n, m in net.named_modules() if not isinstance(m, (nn.Sequential, *_DROPPED)) and not _inside(net, n)
    ]
    fused = False
    for (name, module), (_, after) in zip(leaves, [*leaves[1:], ("", None)], strict=True):
        if not fused:
            fused = isinstance(module, _PRODUCTS) and isinstance(after, _RECTIFIERS)
            yield name, module, after if fused else None
        else:
            fused = False


def _inside(net: nn.Sequential, name: str) -> bool:
    """Whether a module lies in one that is no sequence: that one will be refused as a whole."""
    parts = name.split(".")
    return any(not isinstance(net.get_submodule(".".join(parts[:i])), nn.Sequential) for i in range(1, len(parts)))


@dataclass(eq=False)
class _Builder:
    """What is known on the way through: the float activations, and the format of their codes."""

    bits: int
    statistics: Mapping[str, Statistics]
    x: Tensor
    fraction: int
    span: tuple[int, int]
    steps: list[integer.Step] = field(default_factory=list)

    @torch.no_grad()
    def add(self, name: str, module: nn.Module, after: nn.Module | None) -> None:
        y = module(self.x)
        y = y if after is None else nn.Sequential(after)(y)
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            self.steps.append(self._product(name, module, y, after))
        elif isinstance(module, nn.ReLU):
            self.steps.append(integer.Relu())
            self.span = (max(self.span[0], 0), max(self.span[1], 0))
        elif isinstance(module, nn.Flatten) and module.start_dim == 1 and module.end_dim == -1:
            self.steps.append(integer.Flatten())
        else:
            self.steps.append(_pool(name, module, max(abs(s) for s in self.span).bit_length() + 1))
        self.x = y

    def _product(self, name: str, module: nn.Conv2d | nn.Linear, y: Tensor, after: nn.Module | None) -> integer.Product:
        weight = f"{name}.weight"
        kind = "conv" if isinstance(module, nn.Conv2d) else "linear"
        layer = Layer(weight, kind, module.weight.detach(), groups=getattr(module, "groups", 1))
        _supported(weight, module, y)
        form = _best_format(y, self.bits, after is not None)
        known = self.statistics.get(weight, Statistics())
        grid = FixedPoint(self.bits, "channel").encode(layer, known)
        bias = torch.zeros(len(y[0])) if module.bias is None else module.bias.detach()
        codes, fraction = self._limited(grid, bias, form.fraction)
        out = min(form.fraction, int(fraction.min()) + self.fraction)
        shift = fraction + self.fraction - out
        offset = torch.ldexp(bias.double(), fraction + self.fraction).round().long()
        offset = offset + torch.where(shift > 0, torch.ones_like(shift) << (shift - 1).clamp_min(0), 0)
        final = Grid(codes.to(torch.int16), grid.scale, grid.zero_point, 16)
        proof = accumulator_bits(layer, final, self.bits, self.span, offset)
        self.fraction = out
        self.span = _span(self.bits, out, after)
        shape = (*layer.weight.shape, 1, 1)[:4]
        w, b, s = (t.numpy().astype(np.int64) for t in (codes.reshape(shape), offset, shift))
        made = integer.Product(name, w, b, s, *self.span, proof)
        return made if isinstance(module, nn.Linear) else replace(made, **_geometry(module))

    def _limited(self, grid: Grid, bias: Tensor, out: int) -> tuple[Tensor, Tensor]:
        """Codes [rows, columns] and fraction bits [rows]; coarser where sums, biases or shifts would leave 32 bits."""
        fraction = -grid.scale[:, 0].double().log2().round().long()
        worst = grid.codes.double().abs().sum(1) * max(abs(s) for s in self.span)
        most = fraction - _over(worst, 30).clamp(0, self.bits - 4)  # below 4 bits the proof's error says more
        most = torch.minimum(most, -self.fraction - _over(bias.double().abs(), 28))
        allowed = torch.minimum(most, torch.full_like(most, out + _MOST_SHIFT - self.fraction))
        allowed = torch.minimum(allowed, fraction)
        return torch.ldexp(grid.codes.double(), (allowed - fraction)[:, None]).round().long(), allowed


def _span(bits: int, fraction: int, after: nn.Module | None) -> tuple[int, int]:
    """Least and greatest code of an output: no sign after a ReLU, nothing above six after a ReLU6."""
    if after is None:
        return -(1 << bits - 1), (1 << bits - 1) - 1
    top = (1 << bits) - 1
    return 0, min(top, round(6 * 2.0**fraction)) if isinstance(after, nn.ReLU6) else top


def _over(values: Tensor, bits: int) -> Tensor:
    """How many times each must be halved to lie below 2^bits; negative where it can be doubled."""
    return values.clamp_min(2.0**-90).log2().ceil().long() - bits


def _supported(name: str, module: nn.Conv2d | nn.Linear, y: Tensor) -> None:
    """`LessenError` naming the layer for what the executor doesn't do."""
    if not bool(torch.isfinite(y).all()):
        raise LessenError("its output is not finite on the samples", where=name, mend="take a healthy network")
    if isinstance(module, nn.Conv2d) and (module.padding_mode != "zeros" or isinstance(module.padding, str)):
        raise LessenError("only zero padding given in numbers has an integer form", where=name, mend="give numbers")
    if isinstance(module, nn.Linear) and y.ndim != 2:
        raise LessenError(f"a linear layer on {y.ndim} dimensions has no integer form yet", where=name)


def _geometry(module: nn.Conv2d) -> dict[str, Any]:
    pairs = {name: _pair(getattr(module, name)) for name in ("stride", "padding", "dilation")}
    return {**pairs, "groups": module.groups}


def _pool(name: str, module: nn.Module, bits: int) -> integer.Step:
    """A pooling step for codes of this many bits; `LessenError` naming any other module."""
    if isinstance(module, nn.MaxPool2d) and _pair(module.dilation) == (1, 1) and not module.ceil_mode:
        return integer.MaxPool(_pair(module.kernel_size), _pair(module.stride), _pair(module.padding))
    plain = isinstance(module, nn.AvgPool2d) and not (module.ceil_mode or module.divisor_override)
    if isinstance(module, nn.AvgPool2d) and plain and _pair(module.padding) == (0, 0):
        return integer.MeanPool(_pair(module.kernel_size), _pair(module.stride), 31 - bits)
    if isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1)):
        return integer.MeanPool(None, (1, 1), 31 - bits)
    mend = "fold batch norms first" if isinstance(module, nn.BatchNorm2d) else "leave it in float"
    raise LessenError(f"{module} has no integer form", where=name, mend=mend)


def _best_format(x: Tensor, bits: int, unsigned: bool) -> QFormat:
    """The binary point with the least squared error on x, of one that clips nothing and two finer ones."""
    low, high = float(x.min()), float(x.max())
    wide = bits + 1 if unsigned else bits
    safe = QFormat.of(low, high, wide)
    forms = [QFormat(wide, safe.fraction + i) for i in range(3)]
    errors = [float((f.codes(x).double() * f.step - x.double()).square().mean()) for f in forms]
    return forms[errors.index(min(errors))]


def _pair(value: object) -> integer.Pair:
    a, b = value if isinstance(value, (tuple, list)) else (value, value)
    return int(a), int(b)
