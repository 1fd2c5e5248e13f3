"""Fake quantizers at the inputs of layers: found, given their first ranges, put in, taken out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LessenError
from ..models.layer import Layer
from ..quantize.scale import fit, levels
from .qat_quantizer import FakeQuantize, Learner, Slope

_EACH, _ENOUGH = 2048, 65536  # values looked at in one call of a layer, and in all: the range settles by then
_PLAIN = (nn.Linear, nn.modules.conv._ConvNd)


@dataclass(frozen=True)
class InputRange:
    """The range that a layer's input is quantized in: `bits` bits from `low` to `high`, zero exactly among them."""

    low: float
    high: float
    bits: int


@dataclass(eq=False)
class _Reader:
    """One input of one module, and what was seen of it."""

    owner: nn.Module
    slot: str
    names: list[str]
    tensor: Tensor | None = None
    seen: list[Tensor] = field(default_factory=list)
    low: float = 0.0
    high: float = 0.0

    def look(self, x: Tensor) -> None:
        self.tensor = x if self.tensor is None else self.tensor  # held, so that its memory is not used again
        flat = x.detach().reshape(-1)
        self.seen.append(flat[:: flat.numel() // _EACH | 1].float().clone())
        ends = torch.aminmax(torch.cat([flat.float(), torch.tensor([self.low, self.high])]))  # NaN stays NaN
        self.low, self.high = float(ends.min), float(ends.max)

    def values(self) -> Tensor:
        values = torch.cat(self.seen) if self.seen else torch.zeros(0)
        return torch.cat([values[:: len(values) // _ENOUGH | 1], torch.tensor([self.low, self.high])])


def put_inputs(
    module: nn.Module, layers: Iterable[Layer], bits: int, slope: Slope | None, batches: Iterable[Any]
) -> tuple[dict[str, Learner], dict[str, str]]:
    """Puts a fake quantizer before each layer, its range that of least squared error on these batches.

    Layers that read the same tensor share one. A recurrent cell has one for its input and one for its state.

    Returns:
        the quantizers by layer name, and the reason for each layer whose input can't be reached.

    Raises:
        LessenError: an input became NaN or infinite.
    """
    readers, why = _readers(module, layers)
    _watch(module, readers, batches)
    placed: dict[str, Learner] = {}
    for same in _by_tensor(readers):
        quantizer = _start(same, bits, slope)
        for reader in same:
            _put(reader.owner, reader.slot, quantizer)
            placed |= dict.fromkeys(reader.names, quantizer)
    return placed, why


def freeze_inputs(module: nn.Module) -> None:
    """Every quantizer in training becomes one that stays as it is."""
    made: dict[Learner, FakeQuantize] = {}
    for owner in list(module.modules()):
        for slot in ("input_quantizer", "state_quantizer"):
            found = owner._modules.get(slot)
            if isinstance(found, Learner):
                setattr(owner, slot, made.setdefault(found, found.frozen()))


def remove_inputs(module: nn.Module) -> None:
    """The network without its fake quantizers."""
    for owner in module.modules():
        for slot in ("input_quantizer", "state_quantizer"):
            owner._modules.pop(slot, None)
        for key in [k for k, hook in owner._forward_pre_hooks.items() if hook is _quantize_inputs]:
            del owner._forward_pre_hooks[key]


def input_ranges(quantizers: Mapping[str, Learner]) -> dict[str, InputRange]:
    """What they learned, by layer name."""
    ranges = {}
    for name, q in quantizers.items():
        step = float(q.step.detach())
        ranges[name] = InputRange(q.low * step, q.high * step, (q.high - q.low).bit_length())
    return ranges


def _readers(module: nn.Module, layers: Iterable[Layer]) -> tuple[list[_Reader], dict[str, str]]:
    found: dict[tuple[nn.Module, str], _Reader] = {}
    why: dict[str, str] = {}
    for layer in layers:
        owner = module.get_submodule(layer.module)
        leaf = layer.name.rpartition(".")[2]
        if isinstance(owner, _PLAIN) or (isinstance(owner, nn.RNNCellBase) and leaf.startswith("weight_ih")):
            slot = "input_quantizer"
        elif isinstance(owner, nn.RNNCellBase):
            slot = "state_quantizer"
        else:
            why[layer.name] = f"the input of {type(owner).__name__} can't be reached; it stays in float"
            continue
        found.setdefault((owner, slot), _Reader(owner, slot, [])).names.append(layer.name)
    return list(found.values()), why


def _slots(args: tuple[Any, ...]) -> Iterator[tuple[str, Tensor]]:
    """The tensors that a module was called with: its input and, of a recurrent cell, its state (not its memory)."""
    yield "input_quantizer", args[0]
    state = args[1] if len(args) > 1 else None
    state = state[0] if isinstance(state, tuple) else state
    if state is not None:
        yield "state_quantizer", state


def _quantize_inputs(owner: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    made = list(args)
    for slot, x in _slots(args):
        quantizer = owner._modules.get(slot)
        if quantizer is None:
            continue
        if slot == "input_quantizer":
            made[0] = quantizer(x)
        else:
            made[1] = (quantizer(x), *args[1][1:]) if isinstance(args[1], tuple) else quantizer(x)
    return tuple(made)


def _put(owner: nn.Module, slot: str, quantizer: nn.Module) -> None:
    setattr(owner, slot, quantizer)
    if _quantize_inputs not in owner._forward_pre_hooks.values():
        owner.register_forward_pre_hook(_quantize_inputs)


def _watch(module: nn.Module, readers: list[_Reader], batches: Iterable[Any]) -> None:
    with _looking(readers), torch.no_grad():
        for batch in batches:
            module(*batch.inputs)
    for reader in readers:
        if not torch.isfinite(torch.tensor([reader.low, reader.high])).all():
            raise LessenError("its input holds NaN or infinite values", where=reader.names[0],
                              mend="look for NaN in the data, or for a layer before it that overflows")  # fmt: skip


@contextmanager
def _looking(readers: list[_Reader]) -> Iterator[None]:
    by_owner: dict[nn.Module, dict[str, _Reader]] = {}
    for reader in readers:
        by_owner.setdefault(reader.owner, {})[reader.slot] = reader

    def look(owner: nn.Module, args: tuple[Any, ...]) -> None:
        for slot, x in _slots(args):
            if slot in by_owner[owner]:
                by_owner[owner][slot].look(x)

    handles = [owner.register_forward_pre_hook(look) for owner in by_owner]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _by_tensor(readers: list[_Reader]) -> list[list[_Reader]]:
    """Readers of one and the same tensor together; those that no batch reached are left out."""
    groups: dict[tuple[Any, ...], list[_Reader]] = {}
    for reader in readers:
        if reader.tensor is not None:
            x = reader.tensor
            groups.setdefault((x.data_ptr(), x.shape, x.stride()), []).append(reader)
    for reader in readers:
        reader.tensor = None
    return list(groups.values())


def _start(same: list[_Reader], bits: int, slope: Slope | None) -> Learner:
    values = torch.cat([r.values() for r in same])
    scale, zero = fit(values[None], torch.ones(1, len(values)), bits, symmetric=False)
    low, high = levels(bits)
    return Learner(scale[0], low - int(zero), high - int(zero), slope)
