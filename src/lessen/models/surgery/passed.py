"""What stands where a block was: its input goes on as it is, or nothing is added."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lessen.errors import LessenError

_PLAIN = (int, float, str, bool, type(None))


class Passed(nn.Module):
    """One argument, handed on; in a tuple of `outputs` where the block gave one (the others are None).

    Args:
        place: position or keyword of the argument; -1: a single zero, for what is only added to something.
        outputs: 0 for a tensor, else the length of the tuple.
    """

    def __init__(self, place: int | str, outputs: int = 0) -> None:
        super().__init__()
        self.place, self.outputs = place, outputs

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The argument at `place`."""
        x = self._given(args, kwargs)
        return x if self.outputs == 0 else (x, *[None] * (self.outputs - 1))

    def _given(self, args: tuple, kwargs: dict) -> Any:
        if self.place == -1:
            return torch.zeros(())
        return kwargs[self.place] if isinstance(self.place, str) else args[self.place]


class Blank(nn.Module):
    """Zeros of another width, where a layer was whose output counts for nothing but its shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        """x [..., any] -> zeros [..., width]."""
        return x.new_zeros(()).expand(*x.shape[:-1], self.width)


def blank(model: nn.Module, path: str, width: int) -> None:
    """Puts a `Blank` where module `path` is."""
    if type(width) is not int or width < 1:
        raise LessenError(f"{width!r} is no width", where=path or "edits", mend="use the edits as made")
    _put(model, path, Blank(width))


def pass_by(model: nn.Module, path: str, place: int | str, outputs: int) -> None:
    """Puts a `Passed` where module `path` is; plain attributes that a parent may read stay."""
    if not (isinstance(place, str) or (type(place) is int and place >= -1)) or type(outputs) is not int:
        raise LessenError(f"{place!r} is no argument of a module", where=path or "edits", mend="use the edits as made")
    _put(model, path, Passed(place, outputs))


def _put(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    try:
        owner = model.get_submodule(parent)
        old = owner.get_submodule(name)
    except AttributeError as error:
        raise LessenError(f"no module {path!r}", where="edits", mend="use the original model") from error
    for key, value in vars(old).items():
        if not key.startswith("_") and type(value) in _PLAIN and not hasattr(module, key):
            setattr(module, key, value)
    setattr(owner, name, module)
