"""What a layer costs in time on this machine: read from the runtime's own profile of the whole network."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir
from torch import Tensor

from ..codings import Coding, Grid, LowRank
from ..models.layer import Layer
from .batching import first_samples
from .coded import Coded, Execution
from .graph import is_constant
from .locate import locate_all
from .machine import machine, versions
from .onnx_file import write_whole
from .qdq import activations
from .ranges import Range
from .target import Events, Target
from .weights import is_float, rounded

FILE = "file"  # way of a figure that is of a whole file
RUNS = 12
LONG, MOST = 0.1, 500  # seconds that the runs of a small network go on for, at most so many: one moment is like another
VERSION = 9
PRODUCTS = {"Conv", "ConvTranspose", "MatMul", "Gemm", "LSTM", "GRU", "RNN"}  # operators of the float graph


@dataclass(frozen=True)
class Shape:
    """What the time of a layer depends on: its kind, the layout of its weight, and how often each weight is used."""

    kind: str
    weight: tuple[int, ...]
    positions: int
    groups: int = 1

    @classmethod
    def of(cls, layer: Layer) -> Shape:
        positions = max(round(layer.macs / max(layer.weight.numel(), 1)), 1)
        return cls(layer.kind, tuple(layer.weight.shape), positions, layer.groups)

    @property
    def macs(self) -> int:
        return math.prod(self.weight) * self.positions

    @property
    def family(self) -> tuple[object, ...]:
        """Shapes of one family run at a like speed: same kind and kernel, both depthwise or neither."""
        return (self.kind, self.weight[2:], self.groups > 1)

    @property
    def sizes(self) -> tuple[int, ...]:
        return (*self.weight, self.positions, self.groups)

    def distance(self, other: Shape) -> float:
        """How unlike two shapes are, in their MACs and in all that makes these up."""
        each = sum(abs(math.log(a / b)) for a, b in zip(self.sizes, other.sizes, strict=False))
        return abs(math.log(self.macs / other.macs)) + each

    def within(self, other: Shape) -> bool:
        """Whether it is no larger in any way than another of its family: it then takes no more time."""
        return self.family == other.family and all(a <= b for a, b in zip(self.sizes, other.sizes, strict=True))

    @property
    def key(self) -> str:
        return f"{self.kind} {'x'.join(map(str, self.weight))} p{self.positions} g{self.groups}"

    @classmethod
    def parse(cls, key: str) -> Shape:
        kind, weight, positions, groups = key.split(" ")
        return cls(kind, tuple(map(int, weight.split("x"))), int(positions[1:]), int(groups[1:]))


@dataclass
class LayerCosts:
    """Seconds of one layer for one sample, on one core of a target.

    `prepare` profiles the network in float and in integers; each layer gets the time of its operator and of what
    follows it up to the next one (activation, addition, change of layout). So the layers add up to the network.
    One core, because several tell more of the other processes on the machine than of the layers: take ratios of
    sums, and the measured latency of the baseline for the level.

    The table lies in the user's cache folder (LESSEN_CACHE, else XDG_CACHE_HOME/lessen), one file for each machine,
    runtime version and target. A damaged one is measured again.
    """

    target: Target
    _table: dict[str, float] = field(default_factory=dict)
    _path: Path | None = None

    def __post_init__(self) -> None:
        self._path = cache_folder() / f"layer-costs-{self.target.name}-{_fingerprint(self.target)}.json"
        self._table = _read(self._path)

    def prepare(
        self, model: ir.Model, layers: tuple[Layer, ...], inputs: Sequence[Tensor], more: Sequence[Execution] = ()
    ) -> int:
        """Profiles what is not in the table yet; returns how many entries are new.

        Args:
            model: the float graph.
            inputs: at least one sample of each input.
            more: ways to run linear layers besides the usual ones: "dynamic", "token".
        """
        before = len(self._table)
        sites = locate_all(model, layers)
        wanted = [x for x in layers if _has_cost(x) and x.name in sites and sites[x.name].uses]
        ways: tuple[Execution, ...] = ("float", "int8", "weight", *more)
        for how in ways:
            able = [x for x in wanted if how not in more or x.kind == "linear"]
            if any(_key(how, Shape.of(x)) not in self._table for x in able):
                for layer, seconds in profiled(self.target, model, layers, inputs, how).items():
                    if how not in more or layer.kind == "linear":
                        self._table.setdefault(_key(how, Shape.of(layer)), seconds)
        if len(self._table) > before:
            _write(self._path, self._table)
        return len(self._table) - before

    def seconds(self, layer: Layer, coding: Coding | None = None, integer: bool | str = False) -> float:
        """Time of the layer held this way; `integer` says that its activations are integers too, or how they get so.

        A shape that was not profiled gets the time of the nearest one of its family by the ratio of their MACs, and no
        more than one that is larger in every way.
        A layer whose MACs are not known, an embedding, and anything before `prepare` cost 0.
        """
        if not _has_cost(layer):
            return 0.0
        how: Execution = "float" if coding is None or is_float(coding) else "int8" if integer else "weight"
        if isinstance(integer, str) and how == "int8":
            how = integer  # type: ignore[assignment]
        shape = Shape.of(layer)
        if isinstance(coding, LowRank):
            return sum(self._seconds(s, h) for s, h in _halves(shape, coding, bool(integer)))
        return self._seconds(shape, how)

    def remembered(self, what: bytes, measure: Callable[[], float]) -> float:
        """A figure of a file of these bytes, measured once on this machine: two runs then choose alike."""
        key = f"{FILE} {hashlib.sha256(what).hexdigest()[:32]}"
        if key not in self._table:
            self._table[key] = measure()
            _write(self._path, self._table)
        return self._table[key]

    def _seconds(self, shape: Shape, how: Execution) -> float:
        known = self._table.get(_key(how, shape))
        if known is not None:
            return known
        others = [(Shape.parse(k.split(" ", 1)[1]), v) for k, v in self._table.items() if k.startswith(how + " ")]
        family = [o for o in others if o[0].family == shape.family] or others
        if not family:
            return 0.0
        nearest, seconds = min(family, key=lambda o: shape.distance(o[0]))
        return min([seconds * shape.macs / nearest.macs, *(s for o, s in family if shape.within(o))])


def profiled(
    target: Target, model: ir.Model, layers: tuple[Layer, ...], inputs: Sequence[Tensor], how: Execution
) -> dict[Layer, float]:
    """Seconds of each layer when all of them run this way, by the runtime's profile."""
    codings: dict[str, Coding] = {} if how == "float" else {x.name: _plain_grid(x) for x in layers}
    coded = Coded(layers, codings, dict.fromkeys(codings, how))
    rules = getattr(target, "rules", None)
    if rules is None:
        return {}
    ranges = {name: Range(0.0, 4.0) for name in activations(model, coded, rules).tensors}
    # Time does not ask for the values; but a range from 0 lets a ReLU or ReLU6 vanish, as the measured one does.
    with tempfile.TemporaryDirectory() as folder:
        path = target.export(model, Path(folder) / "profiled.onnx", coded, ranges)
        events = _quickest(target, path, first_samples(inputs, 1))
    return _shared_out(events, _Products.of(model, layers))


def _quickest(target: Target, path: Path, inputs: Sequence[Tensor]) -> Events:
    """The time of each event; a network of microseconds runs often, or one busy moment would be all it saw."""
    events = target.profile(path, inputs, RUNS)
    runs = min(int(LONG / max(sum(seconds for _, seconds, _ in events), 1e-6)), MOST)
    return target.profile(path, inputs, runs) if runs > RUNS else events


def _plain_grid(layer: Layer) -> Grid:
    matrix = rounded(layer.matrix)
    scale = matrix.scale[:, None]
    return Grid(matrix.codes, scale, scale.new_zeros(scale.shape).char(), 8)


@dataclass(frozen=True, eq=False)
class _Products:
    """The products of a graph, in its order and by every name that a runtime may call them; None: two activations."""

    ordered: list[Layer | None]
    named: dict[str, Layer | None]

    @classmethod
    def of(cls, model: ir.Model, layers: tuple[Layer, ...]) -> _Products:
        owner = {id(node): s.layer for s in locate_all(model, layers).values() for node, _ in s.uses}
        nodes = [n for n in model.graph if n.op_type in PRODUCTS and not all(map(is_constant, n.inputs))]
        named = {name: owner.get(id(n)) for n in nodes for name in _names(n)}
        return cls([owner.get(id(n)) for n in nodes], named)

    def called(self, event: str) -> str | None:
        """The name of ours that a runtime's event goes by; None if it made one up."""
        tried = (event, event.split("/")[0], event.split("_nchwc")[0], event.split("_token_")[0])
        return next((name for name in tried if name in self.named), None)


def _names(node: ir.Node) -> list[str]:
    """The node's name, its output's, and that of the activation that a runtime fuses behind it."""
    out = node.outputs[0]
    users = [use.node for use in out.uses()]
    behind = [users[0].outputs[0].name] if len(users) == 1 and users[0].op_type in ("Relu", "Clip") else []
    return [str(n) for n in (node.name, out.name, *behind) if n]


def _shared_out(events: Events, products: _Products) -> dict[Layer, float]:
    """Time between one product and the next belongs to the first; before the first, to it too.

    A product is known by its name, else by its place among the products. When the runtime made another number of
    them and calls most by names of its own, the time of all is shared out by MACs.
    """
    made = [products.called(name) for product, _, name in events if product]
    same = len(made) == len(products.ordered)
    if not same and 2 * sum(name is not None for name in made) < len(products.ordered):
        layers = [x for x in products.ordered if x is not None]
        macs = sum(x.macs for x in layers) or 1
        return {x: sum(e[1] for e in events) * x.macs / macs for x in layers}
    total: dict[Layer, float] = {}
    at, layer = -1, products.ordered[0] if products.ordered else None
    for product, seconds, _ in events:
        if product:
            at += 1
            name = made[at]
            layer = products.named[name] if name is not None else products.ordered[at] if same else layer
        if layer is not None:
            total[layer] = total.get(layer, 0.0) + seconds
    rate = sum(total.values()) / max(sum(x.macs for x in total), 1)
    return {x: x.macs * rate for x in products.ordered if x is not None} | total  # one that vanished in another


def _has_cost(layer: Layer) -> bool:
    return layer.macs > 0 and layer.kind != "embedding"


def _key(how: Execution, shape: Shape) -> str:
    return f"{how} {shape.key}"


def _halves(shape: Shape, coding: LowRank, integer: bool) -> list[tuple[Shape, Execution]]:
    rank, rows = coding.rank, coding.shape[0]
    first = Shape(shape.kind, (rank, *shape.weight[1:]), shape.positions)
    second = Shape(shape.kind, (rows, rank, *[1] * (len(shape.weight) - 2)), shape.positions)

    def how(half: Coding) -> Execution:
        return "float" if is_float(half) else "int8" if integer else "weight"

    return [(first, how(coding.right)), (second, how(coding.left))]


def cache_folder() -> Path:
    """Where measurements are remembered between runs."""
    own = os.environ.get("LESSEN_CACHE")
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lessen"


def _fingerprint(target: Target) -> str:
    here, known = machine(), versions()
    facts = [VERSION, here["cpu"], here["flags"], here["cores"], known.get(target.name), repr(target)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]


def _read(path: Path) -> dict[str, float]:
    try:
        table = {str(k): float(v) for k, v in json.loads(path.read_text()).items()}
        for way, rest in (key.split(" ", 1) for key in table):
            if way != FILE:
                Shape.parse(rest)
        return table if all(math.isfinite(v) and v >= 0 for v in table.values()) else {}
    except (OSError, ValueError, AttributeError, TypeError, IndexError):
        return {}


def _write(path: Path | None, table: dict[str, float]) -> None:
    if path is None:
        return
    try:
        write_whole(path, json.dumps(table, indent=0, sort_keys=True).encode())
    except ValueError:  # a cache that can't be written costs time, nothing else
        return
