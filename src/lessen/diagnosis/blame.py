"""Who pays: the error at the end of the network, without one unit's rounding, and with that one alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from ..targets.calibrate import as_array, chunks
from ..targets.graph import Array, session_on
from .measure import Batches, Noise, decibels
from .restore import FLAGS, Exact, switchable
from .units import Unit

TRIED = 24  # units that are switched one by one: those whose own rounding makes the most noise


@dataclass(frozen=True)
class Share:
    """One unit's part in the error of the network's outputs.

    Args:
        pays: share of the error energy that is gone when only this unit is put back to float; can be negative.
        only_db: signal to noise of the outputs when only this unit is rounded.
    """

    pays: float
    only_db: float


@dataclass(eq=False)
class Switchboard:
    """The file in float arithmetic, every unit with a switch."""

    model: ir.Model
    units: Sequence[Unit]
    exact: Exact
    batches: Batches

    def __post_init__(self) -> None:
        made = switchable(self.model, self.units, self.exact)
        self._session = session_on(made, intra_op_num_threads=1)
        self._names = [i.name for i in self._session.get_inputs() if i.name != FLAGS]
        first = self._session.get_inputs()[0].shape
        self._fixed = first[0] if first and isinstance(first[0], int) else None
        self._wanted = list(self._run(np.ones(len(self.units), bool)))
        self.whole = self.error(())

    def error(self, exact: Sequence[str], invert: bool = False) -> float:
        """Energy of the error over the energy of the outputs, with these units in float (or all but these)."""
        flags = np.array([(u.name in exact) != invert for u in self.units])
        found = 0.0
        for wanted, got in zip(self._wanted, self._run(flags), strict=True):
            found += sum(_relative(a, b) for a, b in zip(wanted, got, strict=True)) / max(len(wanted), 1)
        return found / max(len(self._wanted), 1)

    def _run(self, flags: Array) -> Iterator[list[Array]]:
        for chunk in chunks(([as_array(x) for x in batch] for batch in self.batches), self._fixed):
            feed: dict[str, Any] = dict(zip(self._names, chunk, strict=True))
            yield [o for o in self._session.run(None, feed | {FLAGS: flags}) if o.dtype.kind == "f"]


def _relative(wanted: Array, got: Array) -> float:
    a, b = wanted.astype(np.float64), got.astype(np.float64)
    return float(((a - b) ** 2).sum() / max((a * a).sum(), 1e-30))


def blamed(board: Switchboard, noise: Mapping[str, Noise]) -> dict[str, Share]:
    """The units with the noisiest outputs, each switched off and on alone."""
    order = sorted((u.name for u in board.units), key=lambda n: noise[n].alone_db)[:TRIED]
    found = {}
    for name in order:
        without, only = board.error([name]), board.error([name], invert=True)
        found[name] = Share((board.whole - without) / max(board.whole, 1e-30), decibels(1.0, only))
    return found
