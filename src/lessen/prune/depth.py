"""`Depth`: whole residual blocks removed, so that the network is really shallower."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ..errors import LessenError


@dataclass(frozen=True)
class Depth:
    """Structured pruning of depth: blocks whose removal is an identity, the least harmful one first.

    A block is a whole residual layer, or what such a layer adds alone: its attention, its feed-forward.
    The harm of a block is measured: how far the network's outputs move without it and without those that went before
    (the greedy search of Shortened LLaMA, Kim et al. 2024, sec. 2.2; ShortGPT, Men et al. 2024, ranks once).

    Args:
        blocks: how many go.
    """

    blocks: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.blocks, bool) or not isinstance(self.blocks, int) or self.blocks < 1:
            raise LessenError(f"Depth can't remove {self.blocks} blocks", mend="1 or more")

    @classmethod
    def offers(cls) -> tuple[Depth, ...]:
        return tuple(cls(n) for n in (1, 2, 4))

    def rank(
        self, costs: Mapping[str, float], harm: Callable[[tuple[str, ...]], float]
    ) -> tuple[tuple[str, ...], float]:
        """Chooses the blocks to remove, one after the other.

        Args:
            costs: block -> what it costs (only proportions count); a block inside another has a longer path.
            harm: measured harm of the network without these blocks.

        Returns:
            the blocks, and the harm without all of them.

        Raises:
            LessenError: fewer blocks than asked for, or a harm that is not a number.
        """
        gone: tuple[str, ...] = ()
        last = 0.0
        for _ in range(self.blocks):
            harms = {name: harm((*_outside(gone, name), name)) for name in _left(costs, gone)}
            if not harms:
                raise LessenError(
                    f"only {len(gone)} of {self.blocks} residual blocks can be removed",
                    where=", ".join(costs) or "the network",
                    mend="ask for fewer blocks",
                )
            if any(h != h for h in harms.values()):
                raise LessenError("the harm is not a number", where=next(n for n, h in harms.items() if h != h))
            best = min(harms, key=lambda n: (harms[n] - last) / max(costs[n], 1e-30))
            gone, last = (*_outside(gone, best), best), harms[best]
        return gone, last


def _left(costs: Iterable[str], gone: tuple[str, ...]) -> list[str]:
    """Blocks that are neither gone nor inside one that is."""
    return [n for n in costs if not any(n == g or n.startswith(f"{g}.") for g in gone)]


def _outside(gone: tuple[str, ...], name: str) -> tuple[str, ...]:
    """Those of the removed blocks that are not inside `name`."""
    return tuple(g for g in gone if not g.startswith(f"{name}."))
