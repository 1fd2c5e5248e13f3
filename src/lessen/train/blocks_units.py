"""Where a network is cut for reconstruction: residual blocks, runs of a `Sequential`, single layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LessenError
from ..models.depth import find_blocks
from ..models.layer import Layer

LEARNED = ("linear", "conv", "conv_transpose")
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Unit:
    """A part of the network that runs once.

    Args:
        modules: paths of the modules that run one after the other, each on the output of the one before.
        layers: names of the weights in them, in the order of the network's layers.
    """

    modules: tuple[str, ...]
    layers: tuple[str, ...]


def units_of(
    model: nn.Module, inputs: tuple[Tensor, ...], layers: Sequence[Layer], blocks: bool
) -> tuple[tuple[Unit, ...], tuple[str, ...]]:
    """The units of a network, in the order in which they run, and the names of layers that are in none.

    With `blocks`: residual blocks and modules of the same class (those that also change the width), then pairs of
    layers of a `Sequential` (a depthwise convolution goes with the layer behind it), then single layers. Without:
    single layers. What a `Sequential` has behind a layer (activation, pooling) belongs to its unit.
    """
    once = _named_once(model)
    finder = _Finder(model, inputs, [x for x in layers if x.kind in LEARNED and x.name in once])
    if blocks:
        finder.residual(inputs)
    finder.sequences(2 if blocks else 1)
    finder.single()
    found = sorted(finder.units, key=lambda u: finder.place[u.modules[0]])
    return tuple(found), tuple(x.name for x in layers if x.kind in LEARNED and x.name not in finder.taken)


def _named_once(model: nn.Module) -> set[str]:
    """Parameters that have no other name: modules don't share them."""
    every = [(n, id(p)) for n, p in model.named_parameters(remove_duplicate=False)]
    count = Counter(i for _, i in every)
    return {n for n, i in every if count[i] == 1}


class _Finder:
    """The search under way."""

    def __init__(self, model: nn.Module, inputs: tuple[Tensor, ...], layers: Sequence[Layer]) -> None:
        self.modules = dict(model.named_modules())
        self.place, self.calls = _run(model, self.modules, inputs)
        self.layers, self.units, self.taken = layers, list[Unit](), set[str]()
        self.depthwise = {x.name for x in layers if x.groups > 1}

    def inside(self, path: str) -> list[str]:
        """Layers below a module that are in no unit yet."""
        return [x.name for x in self.layers if x.name not in self.taken and x.name.startswith(_below(path))]

    def add(self, modules: Iterable[str], layers: Iterable[str]) -> None:
        """A unit, if every part of it runs once."""
        modules, layers = tuple(modules), tuple(layers)
        if layers and all(self.calls[m] == 1 for m in modules):
            self.units.append(Unit(modules, layers))
            self.taken.update(layers)

    def residual(self, inputs: tuple[Tensor, ...]) -> None:
        try:
            names = [b.name for b in find_blocks(self.modules[""], inputs)[0]]
        except LessenError:
            return
        kinds = {type(self.modules[n]) for n in names}
        names += [n for n, m in self.modules.items() if type(m) in kinds and not isinstance(m, _CONTAINERS) and n]
        for name in sorted(set(names), key=lambda n: (n.count("."), self.place.get(n, 0))):  # the outermost first
            self.add([name], self.inside(name))

    def sequences(self, most: int) -> None:
        for path, module in self.modules.items():
            if type(module).forward is nn.Sequential.forward and self.calls[path] == 1:
                for modules, layers in self._runs(path, module, most):
                    self.add(modules, layers)

    def _runs(self, path: str, module: nn.Module, most: int) -> Iterator[tuple[list[str], list[str]]]:
        modules: list[str] = []
        layers: list[str] = []
        for leaf, child in module.named_children():
            name, here = _below(path) + leaf, self.inside(_below(path) + leaf)
            whole = len(here) == 1 or (most > 1 and here and not isinstance(child, _CONTAINERS))
            full = len(layers) >= most and (most == 1 or layers[-1] not in self.depthwise)
            if (here and (not whole or full)) or self._has_taken(name):
                yield modules, layers
                modules, layers = [], []
            if whole or (layers and not here and not self._has_taken(name)):
                modules, layers = [*modules, name], [*layers, *here]
        yield modules, layers

    def _has_taken(self, path: str) -> bool:
        return any(n.startswith(_below(path)) for n in self.taken)

    def single(self) -> None:
        for layer in self.layers:
            if layer.name not in self.taken and layer.module:
                self.add([layer.module], self.inside(layer.module))


def _below(path: str) -> str:
    return f"{path}." if path else ""


def _run(
    model: nn.Module, modules: dict[str, nn.Module], inputs: tuple[Tensor, ...]
) -> tuple[dict[str, int], Counter[str]]:
    """When each module runs first, and how often."""
    place: dict[str, int] = {}
    calls: Counter[str] = Counter()

    def note(name: str) -> Any:
        def hook(*_: object) -> None:
            place.setdefault(name, len(place))
            calls[name] += 1

        return hook

    with ExitStack() as stack, torch.no_grad():
        for name, module in modules.items():
            handle = module.register_forward_pre_hook(note(name))
            stack.callback(handle.remove)
        model(*inputs)
    return place, calls
