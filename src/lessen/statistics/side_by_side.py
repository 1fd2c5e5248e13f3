"""The float network and the one being coded, side by side: both stop at each layer, and the layer is coded there.

Each network runs once. A run is a thread that waits whenever it comes to a watched weight for the first time; one
thread works at a time, so all is deterministic. When all have arrived the visitor sees what the layer reads on both
sides and may change its weight, and everything behind it then reads what the changed layer puts out.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..memory import give_back
from ..models.layer import Layer
from .batches import inputs_of
from .collect import weights_of
from .columns import Convolution, patches
from .moments import WIDEST
from .still import still
from .watch import Watch

_KINDS = ("linear", "conv", "conv_transpose")
_RIDGE = 0.01  # of the mean diagonal, at least; more where there are few observations
_ROWS = 8  # times the columns, and at least _FEWEST: rows of inputs that the moments are taken of
_FEWEST = 8192


@dataclass(frozen=True, eq=False)
class Drift:
    """What one layer reads: x in the float network, z in the network coded so far; moments over the same positions.

    Args:
        Z: mean of z zT, [groups, columns, columns].
        C: mean of x zT, like `Z`.
        x, z: means, [groups, columns].
        observations: rows that these are means of.
    """

    Z: Tensor
    C: Tensor
    x: Tensor
    z: Tensor
    observations: int

    @classmethod
    def of(cls, xs: Sequence[Tensor], zs: Sequence[Tensor]) -> Drift:
        """From the columns of each batch, [groups, n, columns]."""
        n = max(sum(x.shape[1] for x in xs), 1)
        groups, _, columns = xs[0].shape
        Z, C = torch.zeros(groups, columns, columns), torch.zeros(groups, columns, columns)
        for x, z in zip(xs, zs, strict=True):
            Z.baddbmm_(z.transpose(1, 2), z, alpha=1 / n)
            C.baddbmm_(x.transpose(1, 2), z, alpha=1 / n)
        mean_x, mean_z = (torch.stack([v.sum(1) for v in vs]).sum(0) / n for vs in (xs, zs))
        return cls(Z, C, mean_x, mean_z, n)

    def centred(self) -> Drift:
        """Without the means: for a layer whose bias takes up what the means make."""
        zz, xz = self.z[:, :, None] * self.z[:, None], self.x[:, :, None] * self.z[:, None]
        return replace(self, Z=self.Z - zz, C=self.C - xz)

    def scaled(self, scale: Tensor) -> Drift:
        """Of the inputs x / scale, [columns]."""
        both = torch.outer(scale, scale)
        return Drift(self.Z / both, self.C / both, self.x / scale, self.z / scale, self.observations)

    def corrected(self, matrix: Tensor) -> Tensor:
        """The weight [rows, columns] that makes of z what `matrix` makes of x: W + W (C - Z) (Z + r)^-1.

        Least squares with a ridge r towards W. Rounding this weight under the metric Z minimises the error against
        the float network's output, earlier layers' errors included (GPTAQ, Li et al. 2025; Qronos, Zhang et al. 2025).
        """
        groups, columns = self.z.shape
        A = self.Z.clone()
        size = A.diagonal(dim1=1, dim2=2).mean(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        A.diagonal(dim1=1, dim2=2).add_(size * max(_RIDGE, (columns / self.observations) ** 2))
        L, failed = torch.linalg.cholesky_ex(A)
        del A
        if bool(failed.any()):
            return matrix
        W = matrix.float().reshape(groups, -1, columns)
        move = torch.cholesky_solve((W @ (self.C - self.Z)).transpose(1, 2), L).transpose(1, 2)
        return (W + move).reshape(matrix.shape)


Visit = Callable[[Layer, Drift], None]


def side_by_side(
    model: nn.Module, coded: nn.Module, layers: Sequence[Layer], batches: Iterable[Any], visit: Visit
) -> tuple[str, ...]:
    """Runs both networks on the batches and calls `visit` at each layer that runs once, in the order of the network.

    Args:
        model: the float network.
        coded: a copy of it, whose weights `visit` changes as it goes.
        layers: those to visit, with their float weights.
        batches: as for `collect`; all of them are under way at once, so memory holds what lies between two layers
            for all samples.

    Returns:
        names of the layers that were visited. Embeddings, recurrent layers and weights that are used several times
        are not; nor is anything behind a point where the networks take different ways.
    """
    layers = [x for x in layers if x.kind in _KINDS and x.shape[1] <= WIDEST]
    batches = list(batches)
    with ExitStack() as stack:
        for network in (model, coded):
            stack.enter_context(still(network))
        once = _used_once(model, layers, batches[0]) if batches else []
        runs = [[_Run(n, once, b) for b in batches] for n in (model, coded)]
        try:
            return _led(runs, visit) if once else ()
        finally:
            for run in (*runs[0], *runs[1]):
                run.finish()


class _Uses:
    """Counts the uses of each weight."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def rows(self, layer: Layer, x: Tensor) -> None:
        self.counts[layer.name] += 1

    def image(self, layer: Layer, x: Tensor, conv: Convolution) -> None:
        self.counts[layer.name] += 1

    def lookups(self, layer: Layer, indices: Tensor) -> None:
        self.counts[layer.name] += 2

    def gradients(self, layer: Layer, grads: Tensor, start: int) -> None:
        """Only forward here."""

    def lookup_gradients(self, layer: Layer, grads: Tensor) -> None:
        """Only forward here."""


def _used_once(model: nn.Module, layers: Sequence[Layer], batch: Any) -> list[Layer]:
    uses = _Uses()
    with torch.no_grad(), Watch(weights_of(model, layers), layers, uses):
        model(*inputs_of(batch))
    return [x for x in layers if uses.counts[x.name] == 1]


def _led(runs: list[list[_Run]], visit: Visit) -> tuple[str, ...]:
    """Leads all runs from layer to layer."""
    visited: list[str] = []
    everyone = [*runs[0], *runs[1]]
    last: tuple[list[_Stop], Drift] | None = None  # the stops hold their inputs: no other tensor can take that place
    while True:
        for run in everyone:
            run.advance()
        stops = [run.stop for run in everyone if run.stop is not None]
        if len(stops) < len(everyone) or len({s.layer.name for s in stops}) > 1:
            return tuple(visited)
        if last is None or [s.place for s in last[0]] != [s.place for s in stops]:  # not query, key and value
            last = None  # its inputs go before the columns of the new ones come
            give_back()  # every run has a heap of its own, which keeps what the layers before took
            last = (stops, _drift(stops, len(runs[0])))
        visit(stops[0].layer, last[1])
        visited.append(stops[0].layer.name)
        del stops


def _drift(stops: Sequence[_Stop], half: int) -> Drift:
    return Drift.of(*([s.columns(half) for s in side] for side in (stops[:half], stops[half:])))


@dataclass(frozen=True, eq=False)
class _Stop:
    """Where a run waits: the layer, and what it is about to read."""

    layer: Layer
    input: Tensor
    version: int  # of the input: the same memory may hold something else by now
    conv: Convolution | None = None

    @property
    def place(self) -> tuple[Any, ...]:
        at = (self.input.data_ptr(), self.version, tuple(self.input.shape))
        return (*at, self.layer.shape[1], self.layer.weight.shape[2:], self.conv)

    def columns(self, runs: int) -> Tensor:
        """[groups, n, columns]: a sample of positions, the same for every run of this shape."""
        generator = torch.Generator().manual_seed(0)
        if self.conv is not None:
            return patches(self.input, self.layer.weight.shape[2:], self.conv, self.layer.shape[0], generator)
        x, most = self.input, max(_FEWEST, _ROWS * self.layer.shape[1]) // runs
        if len(x) > most:
            x = x[torch.randperm(len(x), generator=generator)[:most].sort().values]
        return x.float().unsqueeze(0)


class _Run(_Uses):
    """One network on one batch: a thread that goes from layer to layer when told to."""

    def __init__(self, model: nn.Module, layers: Sequence[Layer], batch: Any) -> None:
        super().__init__()
        self.stop: _Stop | None = None
        self._go, self._arrived = threading.Semaphore(0), threading.Semaphore(0)
        self._stopping = True
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, args=(model, layers, batch), daemon=True)
        self._thread.start()

    def advance(self) -> None:
        """To the next layer, or to the end (`stop` is then None)."""
        self.stop = None
        self._go.release()
        self._arrived.acquire()
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """To the end, without another stop."""
        self._stopping = False
        self._go.release()
        self._thread.join()

    def _work(self, model: nn.Module, layers: Sequence[Layer], batch: Any) -> None:
        self._go.acquire()
        try:
            if self._stopping:
                with torch.no_grad(), Watch(weights_of(model, layers), layers, self):
                    model(*inputs_of(batch))
        except _Enough:
            pass
        except BaseException as error:  # it belongs to whoever waits
            self._error = error
        self.stop = None
        self._arrived.release()

    def _meet(self, stop: _Stop) -> None:
        self.counts[stop.layer.name] += 1
        if self.counts[stop.layer.name] > 1:
            return
        self.stop = stop
        self._arrived.release()
        self._go.acquire()
        if not self._stopping:
            raise _Enough

    def rows(self, layer: Layer, x: Tensor) -> None:
        self._meet(_Stop(layer, x, x._version))

    def image(self, layer: Layer, x: Tensor, conv: Convolution) -> None:
        self._meet(_Stop(layer, x, x._version, conv))


class _Enough(Exception):
    """No error: nobody needs the rest of the pass."""
