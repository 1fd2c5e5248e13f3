"""What stands where a residual block was: its input goes on as it is."""

from __future__ import annotations

from typing import Any

from torch import nn

from lessen.errors import LessenError

_PLAIN = (int, float, str, bool, type(None))


class Passed(nn.Module):
    """One argument, handed on; in a tuple of `outputs` where the block gave one (the others are None).

    Args:
        place: position or keyword of the argument.
        outputs: 0 for a tensor, else the length of the tuple.
    """

    def __init__(self, place: int | str, outputs: int = 0) -> None:
        super().__init__()
        self.place, self.outputs = place, outputs

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The argument at `place`."""
        x = kwargs[self.place] if isinstance(self.place, str) else args[self.place]
        return x if self.outputs == 0 else (x, *[None] * (self.outputs - 1))


def pass_by(model: nn.Module, path: str, place: int | str, outputs: int) -> None:
    """Puts a `Passed` where module `path` is; plain attributes that a parent may read stay."""
    if not (isinstance(place, str) or (type(place) is int and place >= 0)) or type(outputs) is not int:
        raise LessenError(f"{place!r} is no argument of a module", where=path or "edits", mend="use the edits as made")
    parent, _, name = path.rpartition(".")
    try:
        owner = model.get_submodule(parent)
        old = owner.get_submodule(name)
    except AttributeError as error:
        raise LessenError(f"no module {path!r}", where="edits", mend="use the original model") from error
    passed = Passed(place, outputs)
    for key, value in vars(old).items():
        if not key.startswith("_") and type(value) in _PLAIN and not hasattr(passed, key):
            setattr(passed, key, value)
    setattr(owner, name, passed)
