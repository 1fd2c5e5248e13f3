"""Branches: what is added to a residual stream, attention or feed-forward alone, found in the running network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from lessen.models.calls import Call
from lessen.models.groups.trace import Op, Ref, Trace

_KEPT = frozenset("clone alias detach native_dropout dropout _to_copy".split())  # zero stays zero, and the shape too
_SCALED = frozenset({"mul", "mul_"})


@dataclass(frozen=True)
class Block:
    """A module without which one of its arguments goes on, or the stream to which its output is added.

    Attributes:
        name: path of the module.
        place: position or keyword of the argument that goes on; -1 where its output is a summand, which becomes 0.
        outputs: 0 if it gives a tensor, else the length of its tuple.
        parameters: values in it, and in the layers that only it needs.
        alone: other layers that only it needs: the norm before an attention, or its projections.
    """

    name: str
    place: int | str
    outputs: int
    parameters: int
    alone: tuple[str, ...] = ()


SUMMAND = -1  # the place of blocks that are summands


def find_branches(
    model: nn.Module, trace: Trace, calls: Mapping[str, Sequence[Call]], blocks: Iterable[str]
) -> Iterator[Block]:
    """The modules whose output is only ever added to a tensor that they were computed from.

    Of several modules on the way to one sum, the one with the most parameters; none inside of one of `blocks` (those
    that are themselves one sum). In a pre-norm transformer: the attention and the feed-forward of each layer.
    """
    sums: dict[int, Block] = {}
    whole, found = _Uses(trace), tuple(blocks)
    for name, module in model.named_modules():
        made = calls.get(name, ())
        size = sum(p.numel() for p in module.parameters())
        if not name or not size or len(made) != 1 or not made[0].outs or made[0].outputs is None:
            continue
        at = None if _inside(name, found) else whole.summand(made[0].outs[0])
        if at is None or (at in sums and sums[at].parameters >= size):
            continue
        sums[at] = Block(name, SUMMAND, made[0].outputs or 0, size)
        own = f"{name}."
        alone = tuple(n for n in whole.needed_by(made[0].outs[0]) if n != name and not n.startswith(own))
        size += sum(p.numel() for n in alone for p in model.get_submodule(n).parameters(recurse=False))
        sums[at] = Block(name, SUMMAND, made[0].outputs or 0, size, alone)
    yield from (sums[at] for at in sorted(sums))


def _inside(name: str, blocks: Iterable[str]) -> bool:
    return any(name == b or name.startswith(f"{b}.") for b in blocks)


class _Uses:
    """Who reads which tensor of a trace."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.outputs = {r.id for r in trace.outputs}
        self.makers = {r.id: op for op in trace.ops for r in op.outs if isinstance(r, Ref)}
        self.live = self._modules(self._live())

    def summand(self, out: Ref) -> int | None:
        """The index of the sum that alone reads this tensor, and that adds it to what it was computed from."""
        at = out
        while at.id not in self.outputs and len(readers := self.trace.users.get(at.id, [])) == 1:
            op = readers[0]
            if self._stream(op, at) is not None:
                stream = self._stream(op, at)
                return op.index if stream is not None and self._comes_from(out, stream) else None
            if _name(op) not in _KEPT | _SCALED or not isinstance(op.outs[0], Ref) or op.outs[0].shape != at.shape:
                return None
            at = op.outs[0]
        return None

    @staticmethod
    def _stream(op: Op, at: Ref) -> Ref | None:
        """The other operand of a plain sum."""
        if _name(op) not in ("add", "add_") or op.kwargs.get("alpha", 1) != 1 or len(op.args) != 2:
            return None
        others = [r for r in op.args if isinstance(r, Ref) and r.id != at.id]
        return others[0] if len(others) == 1 and others[0].shape == at.shape == op.outs[0].shape else None

    def _comes_from(self, out: Ref, stream: Ref) -> bool:
        seen, left = set[int](), [out.id]
        while left:
            at = left.pop()
            if at == stream.id:
                return True
            if at not in seen and at in self.makers:
                seen.add(at)
                left += [r.id for r in self.makers[at].refs]
        return False

    def _live(self, without: Ref | None = None) -> set[int]:
        """The tensors that outputs depend on, if nothing depends on `without`."""
        live = set(self.outputs)
        for op in reversed(self.trace.ops):
            writes = _name(op).endswith("_")  # into a tensor that something else may read
            if any(isinstance(r, Ref) and r.id in live for r in op.outs) or (writes and without is None):
                live.update(r.id for r in op.refs if without is None or r.id != without.id)
        return live

    def _modules(self, live: set[int]) -> set[str]:
        return {path.rpartition(".")[0] for i, path in self.trace.params.items() if i in live}

    def needed_by(self, out: Ref) -> list[str]:
        """Modules whose own parameters count only through this tensor."""
        return sorted(self.live - self._modules(self._live(out)))


def _name(op: Op) -> str:
    return str(op.func._schema.name.removeprefix("aten::"))
