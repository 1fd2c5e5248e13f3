"""Which activations get a quantize/dequantize pair, and which of them must share a scale."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass, field, replace

import onnx_ir as ir

from .graph import is_constant
from .locate import INTEGER_OPERATORS, Site

CONVOLUTIONS = ("Conv", "ConvTranspose")
FUSED = ("Relu", "Clip")  # behind a convolution these vanish into the rounding of its output
# Operators that only move or select values: in integers they cost nothing if the scale stays.
MOVERS = {"MaxPool", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Concat", "Identity",
          "DepthToSpace", "SpaceToDepth", "Resize", "Pad", "Gather"}  # fmt: skip
SCALED = {"Mul", "Div", "Add", "Where"}
UNARY = {"Relu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "LeakyRelu", "Elu", "Tanh", "Gelu", "Mish"}


@dataclass(frozen=True)
class Rules:
    """Where a runtime wants its pairs.

    Args:
        behind_convolutions: its integer convolution needs a quantized output.
        elementwise: two-input operators that it runs in integers between convolutions.
        scores: quantize the queries and keys that integers made, with codes that have no offset: the product that a
            softmax makes weights of runs in integers then (OpenVINO, 1,500 positions: a quarter of a network's time).
        guards: operators with weights that it rounds by itself, one scale for the whole tensor, as soon as they read
            quantized values (ONNX Runtime's WeightBiasQuantization): it must not see that they do.
        pools: averages over positions that it computes in integers between quantized tensors. What they read is
            quantized too if a convolution in integers made it.
        gates: two-input operators that get wrong values from an integer convolution without a bias unless they read
            its output quantized (OpenVINO 2026.4, the product with a squeeze-and-excitation's factors: 3 dB).
        signed: its kernels are quicker with signed codes without an offset than with unsigned ones whose zero is moved.
        live: it has integer products whose input's range is found anew in every batch.
        codes_pay_from: weights for each position that they are used at, from which multiplying a float input with
            codes takes less time than with the floats that they are made into at loading; 0: always.
    """

    behind_convolutions: bool = True
    elementwise: tuple[str, ...] = ("Add",)
    scores: bool = False
    guards: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()
    gates: tuple[str, ...] = ()
    signed: bool = False
    live: bool = False
    codes_pay_from: int = 0


@dataclass
class Placement:
    """What to quantize.

    Args:
        readers: for each tensor, the (node, input index) that read it quantized.
        leader: tensor -> the one whose range it takes; tensors with the same leader share a scale.
        centered: tensors whose codes must have no offset.
    """

    readers: dict[str, list[tuple[ir.Node, int]]] = field(default_factory=dict)
    leader: dict[str, str] = field(default_factory=dict)
    centered: set[str] = field(default_factory=set)

    @property
    def tensors(self) -> tuple[str, ...]:
        return tuple(self.readers)

    def add(self, value: ir.Value | None, readers: Iterable[tuple[ir.Node, int]]) -> None:
        if value is None or value.name is None or is_constant(value) or not _is_float(value):
            return
        known = self.readers.setdefault(value.name, [])
        known.extend(r for r in readers if r not in known)
        self.leader.setdefault(value.name, value.name)

    def find(self, name: str) -> str:
        while self.leader[name] != name:
            name = self.leader[name]
        return name

    def alone(self, name: str) -> bool:
        """Whether no other tensor shares the scale."""
        return sum(self.find(other) == self.find(name) for other in self.leader) == 1

    def without(self, names: Iterable[str]) -> Placement:
        """The same, but nobody reads these quantized."""
        out = set(names)
        return replace(self, readers={n: r for n, r in self.readers.items() if n not in out})

    def tie(self, a: str, b: str) -> None:
        first, second = sorted((self.find(a), self.find(b)))
        self.leader[second] = first


def place(model: ir.Model, sites: Iterable[Site], rules: Rules) -> Placement:
    """Pairs at the data input of every layer in `sites`, and where the rules want more.

    Args:
        sites: the layers that shall run in integers.
    """
    integer = [(n, i) for s in sites for n, i in s.uses if (n.op_type, i) in INTEGER_OPERATORS]
    placement = Placement()
    for node, _ in integer:
        placement.add(node.inputs[0], [(node, 0)])
    convolutions = dict.fromkeys(node for node, _ in integer if node.op_type in CONVOLUTIONS)  # in order
    joins = [n for n in model.graph if n.op_type in rules.elementwise and _joins(n, convolutions)]
    for node in joins:
        for i, value in enumerate(node.inputs):
            placement.add(value, [(node, i)])
    if rules.scores:
        for node in model.graph:
            if _makes_scores(node) and all(_made_by(v, {n for n, _ in integer}) for v in node.inputs):
                _as_scores(node, placement)
    if rules.behind_convolutions:
        for node in convolutions:
            _behind(node, placement)
        for node in joins:
            _behind(node, placement, only_if_read=True)
    for node in convolutions:
        if not _has_bias(node) and any(_is_gate(use.node, rules) for use in node.outputs[0].uses()):
            _behind(node, placement)
    made = {*convolutions, *joins}
    for node in model.graph:
        source = node.inputs[0] if node.op_type in rules.pools else None
        if source is not None and (source.name in placement.readers or _origin(source) in made):
            _through(node, placement)
    if not rules.behind_convolutions:
        _lift(made, placement)
    _pass_on(model, placement)
    return placement


def _lift(made: Container[ir.Node | None], placement: Placement) -> None:
    """Codes are made where integers made the values, not behind what moves them: the kernel does the rounding then."""
    for readers in list(placement.readers.values()):
        node, index = readers[0]
        value = node.inputs[index]
        assert value is not None
        if (mover := value.producer()) is not None and mover.op_type in MOVERS:
            for source in _sources(mover, made) or ():
                placement.add(source, [(use.node, use.idx) for use in source.uses()])


def _sources(mover: ir.Node, made: Container[ir.Node | None]) -> list[ir.Value] | None:
    """The values that this operator moves, before anything moved them; None unless integers made them all for it."""
    found: list[ir.Value] = []
    for value in mover.inputs if mover.op_type == "Concat" else mover.inputs[:1]:
        producer = None if value is None else value.producer()
        if value is None or producer is None or len(value.uses()) != 1 or value.is_graph_output():
            return None
        more = _sources(producer, made) if producer.op_type in MOVERS else [value] if _origin(value) in made else None
        if more is None:
            return None
        found += more
    return found


def _through(node: ir.Node, placement: Placement) -> None:
    """A pooling of what integers made reads and makes codes when what is made of them is quantized anyway."""
    path = [node.outputs[0]]
    while path[-1].name not in placement.readers:
        uses = list(path[-1].uses())
        if len(uses) != 1 or uses[0].idx != 0 or uses[0].node.op_type not in MOVERS or path[-1].is_graph_output():
            return
        path.append(uses[0].node.outputs[0])
    placement.add(node.inputs[0], [(node, 0)])
    for value in path:
        placement.add(value, [(use.node, use.idx) for use in value.uses()])
        placement.tie(str(path[-1].name), str(value.name))


def _is_float(value: ir.Value) -> bool:
    return value.type is None or value.dtype in (ir.DataType.FLOAT, None)


def _joins(node: ir.Node, convolutions: Container[ir.Node | None]) -> bool:
    """Both inputs are activations and one of them comes from an integer convolution."""
    if any(v is None or is_constant(v) for v in node.inputs):
        return False
    return any(_origin(v) in convolutions for v in node.inputs)


def _makes_scores(node: ir.Node) -> bool:
    """A product of two activations that ends, scaled and masked, in a softmax."""
    if node.op_type != "MatMul" or any(v is None or is_constant(v) for v in node.inputs):
        return False
    uses = list(node.outputs[0].uses())
    while len(uses) == 1 and uses[0].node.op_type in SCALED:
        uses = list(uses[0].node.outputs[0].uses())
    return len(uses) == 1 and uses[0].node.op_type == "Softmax"


def _made_by(value: ir.Value | None, integer: Container[ir.Node | None]) -> bool:
    """Whether one of these nodes made it, but for a bias, a factor, a change of shape."""
    while value is not None and (node := value.producer()) is not None and node not in integer:
        inputs = [v for v in node.inputs if v is not None and not is_constant(v)]
        if node.op_type not in MOVERS | SCALED or (node.op_type not in MOVERS and len(inputs) != 1):
            return False
        value = inputs[0] if inputs else None
    return value is not None and value.producer() is not None


def _as_scores(node: ir.Node, placement: Placement) -> None:
    for i, value in enumerate(node.inputs):
        assert value is not None and value.name is not None
        if value.name not in placement.readers:
            placement.centered.add(value.name)
        placement.add(value, [(node, i)])


def _has_bias(node: ir.Node) -> bool:
    return len(node.inputs) > 2 and node.inputs[2] is not None


def _is_gate(node: ir.Node, rules: Rules) -> bool:
    return node.op_type in rules.gates and not any(v is None or is_constant(v) for v in node.inputs)


def _origin(value: ir.Value | None) -> ir.Node | None:
    node = value.producer() if value is not None else None
    while node is not None and (node.op_type in MOVERS or node.op_type in UNARY):
        value = node.inputs[0]
        node = value.producer() if value is not None else None
    return node


def _behind(node: ir.Node, placement: Placement, only_if_read: bool = False) -> None:
    """The pair behind a convolution and the activation that fuses with it; then everybody reads its output quantized.

    A convolution that makes the network's output stays in float: eight bits would be its last word.
    """
    value = node.outputs[0]
    users = list(value.uses())
    if len(users) == 1 and users[0].node.op_type in FUSED and not value.is_graph_output():
        value = users[0].node.outputs[0]
    if not value.is_graph_output() and (value.name in placement.readers or not only_if_read):
        placement.add(value, [(use.node, use.idx) for use in value.uses()])


def _pass_on(model: ir.Model, placement: Placement) -> None:
    """What only moves quantized values reads them quantized and keeps their scale, if someone behind wants it."""
    for node in model.graph:
        if node.op_type not in MOVERS or not node.outputs[0].name:
            continue
        sources = [v for v in (node.inputs if node.op_type == "Concat" else node.inputs[:1]) if v is not None]
        if not sources or any(v.name not in placement.readers for v in sources):
            continue
        for i, value in enumerate(sources):
            placement.add(value, [(node, i)])
            for out in node.outputs:
                if out.name not in placement.readers and _is_wanted(out, placement):
                    placement.add(out, [(use.node, use.idx) for use in out.uses()])
                if out.name in placement.readers:
                    placement.tie(str(value.name), str(out.name))


def _is_wanted(value: ir.Value, placement: Placement) -> bool:
    """Whether all that reads it only moves it on, to where it is quantized."""
    users = [use.node for use in value.uses()]
    moved = [n.outputs[0] for n in users if n.op_type in MOVERS and len(n.outputs) == 1]
    if not users or len(moved) < len(users) or value.is_graph_output():
        return False
    return all(out.name in placement.readers or _is_wanted(out, placement) for out in moved)
