"""The float network and the one being coded, side by side: both stop at each layer, and the layer is coded there.

Each network runs once. A run is a thread that waits whenever it comes to a watched weight for the first time; one
thread works at a time, so all is deterministic. When all have arrived the visitor sees what the layer reads on both
sides and may change its weight, and everything behind it then reads what the changed layer puts out. What a run that
waits holds lies in a file (`Aside`), so that memory holds the activations of one batch.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ..memory import rest, shelved, stretches, trim
from ..models.layer import Layer
from .aside import Aside
from .batches import cut, inputs_of
from .collect import weights_of
from .columns import Convolution, observations, patches
from .moments import WIDEST
from .still import still
from .unread import Unread, those_read
from .watch import Watch

_KINDS = ("linear", "conv", "conv_transpose")
_RIDGE = 0.01  # of the mean diagonal, at least; more where there are few observations
_ROWS = 8  # times the columns, and at least _FEWEST: rows of inputs that the moments are taken of
_FEWEST = 8192
_RAW = {"numpy", "__array__", "__dlpack__", "data_ptr", "tolist", "storage", "untyped_storage", "__deepcopy__",
        "__reduce_ex__"}  # fmt: skip


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
    def of(cls, pairs: Iterable[tuple[Tensor, Tensor]], n: int) -> Drift:
        """From the columns of each batch on both sides, [groups, n of it, columns]; one pair is held at a time."""
        sums: list[tuple[Tensor, Tensor]] = []
        for x, z in pairs:
            if not sums:
                groups, _, columns = x.shape
                Z, C = shelved(groups, columns, columns), shelved(groups, columns, columns)
            for sum_of, left in ((Z, z), (C, x)):
                sum_of.baddbmm_(left.transpose(1, 2), z, alpha=1 / n)
                rest()  # one of the two matrices is in memory at a time
            sums.append((x.sum(1), z.sum(1)))
            del x, z, left
        mean_x, mean_z = (torch.stack(side).sum(0) / n for side in zip(*sums, strict=True))
        return cls(Z, C, mean_x, mean_z, n)

    def centred(self) -> Drift:
        """Without the means: for a layer whose bias takes up what the means make."""
        made = []
        for whole, mean in ((self.Z, self.z), (self.C, self.x)):
            product = shelved(*whole.shape)
            torch.mul(mean[:, :, None], self.z[:, None], out=product)
            made.append(torch.sub(whole, product, out=product))
            rest()
        return replace(self, Z=made[0], C=made[1])

    def scaled(self, scale: Tensor) -> Drift:
        """Of the inputs x / scale, [columns]."""
        both = torch.outer(scale, scale)
        return Drift(self.Z / both, self.C / both, self.x / scale, self.z / scale, self.observations)

    def corrected(self, matrix: Tensor) -> Tensor:
        """The weight [rows, columns] that makes of z what `matrix` makes of x: W + W (C - Z) (Z + r)^-1.

        Least squares with a ridge r towards W. Rounding this weight under the metric Z minimises the error against
        the float network's output, earlier layers' errors included (GPTAQ, Li et al. 2025; Qronos, Zhang et al. 2025).
        """
        W = matrix.float().reshape(self.z.shape[0], -1, self.z.shape[1])
        due = self._due(W)
        L = self._cholesky()
        return matrix if L is None else (W + torch.cholesky_solve(due, L).transpose(1, 2)).reshape(matrix.shape)

    def _due(self, W: Tensor) -> Tensor:
        """(W (C - Z))T."""
        apart = shelved(*self.Z.shape)
        for rows in stretches(*self.Z.shape[1:]):
            torch.sub(self.C[:, rows], self.Z[:, rows], out=apart[:, rows])
        rest()
        return (W @ apart).transpose(1, 2)

    def _cholesky(self) -> Tensor | None:
        """Of Z + r; None where it has none."""
        A = self.Z.mT.contiguous().mT  # LAPACK's layout: it is factorised where it is
        rest()
        size = A.diagonal(dim1=1, dim2=2).mean(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        A.diagonal(dim1=1, dim2=2).add_(size * max(_RIDGE, (A.shape[1] / self.observations) ** 2))
        _, failed = torch.linalg.cholesky_ex(A, out=(A, torch.empty(len(A), dtype=torch.int32)))
        return None if bool(failed.any()) else A


Visit = Callable[[Layer, Drift], None]


def side_by_side(
    model: nn.Module, coded: nn.Module, layers: Sequence[Layer], batches: Iterable[Any], visit: Visit,
    unread: Unread | None = None,
) -> tuple[str, ...]:  # fmt: skip
    """Runs both networks on the batches and calls `visit` at each layer that runs once, in the order of the network.

    Args:
        model: the float network.
        coded: a copy of it, whose weights `visit` changes as it goes.
        layers: those to visit, with their float weights.
        batches: as for `collect`; all of them are under way at once, so a file (memory, where there is no room for
            one) holds what lies between two layers for all samples.
        unread: says which positions are padding and left out.

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
        fixed = [*_held_by(model), *_held_by(coded), *(x for b in batches for x in inputs_of(b))]
        aside = stack.enter_context(Aside(fixed))
        read = [unread.rows(b) if unread else None for b in batches]
        runs = [[_Run(n, once, b, aside, r) for b, r in zip(batches, read, strict=True)] for n in (model, coded)]
        try:
            return _led(runs, visit) if once else ()
        finally:
            for run in (*runs[0], *runs[1]):
                run.finish()


def _held_by(network: nn.Module) -> Iterator[Tensor]:
    yield from network.parameters()
    yield from network.buffers()


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
    uses, one = _Uses(), next(cut([batch], 1, 1))
    with torch.no_grad(), Watch(weights_of(model, layers), layers, uses):
        model(*inputs_of(one))
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
            trim()  # every run has a heap of its own, which keeps what the layers before took
            last = (stops, _drift(stops, len(runs[0])))
            trim()
        visit(stops[0].layer, last[1])
        visited.append(stops[0].layer.name)
        del stops


def _drift(stops: Sequence[_Stop], half: int) -> Drift:
    n = sum(stop.observations(half) for stop in stops[:half])
    return Drift.of(_pairs(stops, half), max(n, 1))


def _pairs(stops: Sequence[_Stop], half: int) -> Iterator[tuple[Tensor, Tensor]]:
    """What each batch reads on both sides; there until the next one is asked for."""
    for x, z in zip(stops[:half], stops[half:], strict=True):
        with x.columns(half) as left, z.columns(half) as right:
            yield left, right
            del left, right


@dataclass(frozen=True, eq=False)
class _Stop:
    """Where a run waits: the layer, and what it is about to read."""

    layer: Layer
    input: Tensor
    version: int  # of the input: the same memory may hold something else by now
    aside: Aside
    conv: Convolution | None = None
    read: Tensor | None = None

    @property
    def place(self) -> tuple[Any, ...]:
        at = (self.input.untyped_storage()._cdata, self.input.storage_offset(), self.version, tuple(self.input.shape))
        return (*at, self.layer.shape[1], self.layer.weight.shape[2:], self.conv)

    def observations(self, runs: int) -> int:
        """Length of `columns`."""
        if self.conv is not None:
            return observations(self.input, self.layer.weight.shape[2:], self.conv, self.layer.shape[0])
        rows, read = len(self.input), self.read
        return min(rows if read is None or len(read) != rows else int(read.sum()), self._most(runs))

    @contextmanager
    def columns(self, runs: int) -> Iterator[Tensor]:
        """[groups, n, columns]: a sample of positions, the same for every run of this shape; the input or a copy."""
        with self.aside.lent(self.input):
            made = self._columns(runs)
            if made.untyped_storage()._cdata == self.input.untyped_storage()._cdata:
                yield made
                return
        yield made

    def _columns(self, runs: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        if self.conv is not None:
            return patches(self.input, self.layer.weight.shape[2:], self.conv, self.layer.shape[0], generator)
        x, most = those_read(self.input, self.read), self._most(runs)
        if len(x) > most:
            x = x[torch.randperm(len(x), generator=generator)[:most].sort().values]
        return x.float().unsqueeze(0)

    def _most(self, runs: int) -> int:
        return max(_FEWEST, _ROWS * self.layer.shape[1]) // runs


class _Witness(Watch):
    """Keeps what operators return within reach, so that it can be set aside, and fetches what they read."""

    def __init__(self, weights: Mapping[str, Tensor], layers: Iterable[Layer], run: _Run) -> None:
        super().__init__(weights, layers, run)
        self._run = run

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._run.about_to_read(_tensors((args, kwargs)))
        return super().__torch_dispatch__(func, types, args, kwargs)

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        if func._schema.is_mutable:
            self._run.about_to_write()
        made = super().run(func, args, kwargs)
        self._run.made(_tensors(made))
        return made


def _tensors(values: Any) -> Iterator[Tensor]:
    return (t for t in tree_leaves(values) if isinstance(t, Tensor))


class _Behind(TorchFunctionMode):
    """Fetches what is looked at behind the operators' back: by numpy, by its address."""

    def __init__(self, run: _Run) -> None:
        super().__init__()
        self._run = run

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in _RAW:
            self._run.about_to_read(_tensors((args, kwargs)))
        return func(*args, **(kwargs or {}))


class _Run(_Uses):
    """One network on one batch: a thread that goes from layer to layer when told to."""

    def __init__(
        self, model: nn.Module, layers: Sequence[Layer], batch: Any, aside: Aside, read: Tensor | None = None
    ) -> None:  # fmt: skip
        super().__init__()
        self.stop: _Stop | None = None
        self.aside, self.read = aside, read
        self._mine: set[int] = set()  # storages that this run made
        self._reads: set[int] = set()  # those that the operator at work reads
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
                with torch.no_grad(), _Behind(self), _Witness(weights_of(model, layers), layers, self):
                    model(*inputs_of(batch))
        except _Enough:
            pass
        except BaseException as error:  # it belongs to whoever waits
            self._error = error
        self.stop = None
        self._rest()
        self._arrived.release()

    def about_to_read(self, tensors: Iterable[Tensor]) -> None:
        """An operator reads these."""
        self._reads = self.aside.fetch(k for t in tensors if (k := self.aside.note(t)) is not None)

    def about_to_write(self) -> None:
        """It writes over some of them."""
        self.aside.written(self._reads)

    def made(self, tensors: Iterable[Tensor]) -> None:
        """An operator returned these."""
        self._mine.update(k for t in tensors if (k := self.aside.note(t)) is not None)

    def _meet(self, stop: _Stop) -> None:
        self.counts[stop.layer.name] += 1
        if self.counts[stop.layer.name] > 1:
            return
        self.stop = stop
        self._rest()
        self._arrived.release()
        self._go.acquire()
        self.aside.fetch(self._reads)
        if not self._stopping:
            raise _Enough

    def _rest(self) -> None:
        """Whatever was made so far waits in the file until it is read."""
        if self.aside.put(self._mine):
            trim()  # this thread has a heap of its own

    def rows(self, layer: Layer, x: Tensor) -> None:
        self._meet(_Stop(layer, x, x._version, self.aside, read=self.read))

    def image(self, layer: Layer, x: Tensor, conv: Convolution) -> None:
        self._meet(_Stop(layer, x, x._version, self.aside, conv))


class _Enough(Exception):
    """No error: nobody needs the rest of the pass."""
