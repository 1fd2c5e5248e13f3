"""The pass that writes a plan into a float ONNX graph as quantize/dequantize pairs and integer weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from torch import Tensor

from ..codings import Coding, Grid
from ..models.layer import Layer
from .by_token import brought_to_one
from .carried import carried
from .chain import Chain
from .coded import INTEGERS, Coded
from .decode import decoded, laid_out, takes_nbits, write_nbits
from .dynamic import live_in, round_live, write_live
from .filters import rowed
from .graph import array_of, constant, copied, drop_unused
from .locate import Site, locate_all
from .lowrank import expanded
from .packing import stored_codes
from .placement import Placement, Rules, place
from .ranges import MIDDLE, Range
from .recurrent import write_recurrent
from .tidy import pooled
from .weights import Int8Matrix, fits_int8, int8_matrix, is_float

INT32 = 2**31 - 1
FEW = 64  # channels: fewer scales of a bias take less in the file than computing them does
LARGE = 2**24  # weights of a layer that would take much memory as floats
TABLE = 2**20  # numbers of an embedding that would: a smaller one is made float at loading, not row by row at each use
PRODUCTS = {("MatMul", 1), ("Gemm", 1)}


def activations(model: ir.Model, coded: Coded, rules: Rules) -> Placement:
    """The activations that `quantized` will need ranges of."""
    model, coded = expanded(model, coded)
    model = copied(model)
    aliases = pooled(model)
    sites = locate_all(model, coded.layers)
    own = _own_ranges(model.graph, coded, sites, rules)
    return place(model, list(_integer(coded, sites, rules).values()), rules).without({*aliases, *own})


def _integer(coded: Coded, sites: Mapping[str, Site], rules: Rules) -> dict[str, Site]:
    """The layers that read a quantized tensor; those with a kernel that finds the range by itself do not."""
    return {n: s for n, s in sites.items() if coded.how(s) in INTEGERS and not _finds_itself(coded, s, rules)}


def _finds_itself(coded: Coded, site: Site, rules: Rules) -> bool:
    """Whether it is to find its range in every batch, and there is a kernel that does."""
    return rules.live and coded.how(site) == "dynamic"


def _by_kernel(coded: Coded, sites: Mapping[str, Site], live: set[str], rules: Rules) -> dict[str, Site]:
    """The layers whose kernel finds the range of its input: those that are to, and readers of what is live."""
    readers = {n for n, s in sites.items() if coded.how(s) == "int8" and _read(s) in live}
    return {n: s for n, s in sites.items() if n in readers or _finds_itself(coded, s, rules)}


def _read(site: Site) -> str:
    """The tensor that the layer's first reader multiplies the weight with."""
    return str(site.uses[0][0].inputs[0].name)  # type: ignore[union-attr]


def _own_ranges(graph: ir.Graph, coded: Coded, sites: Mapping[str, Site], rules: Rules) -> dict[str, Range]:
    """Rewrites what finds its range in every token (or batch, where no kernel does); new tensors and their ranges."""
    wanted = {n: s for n, s in sites.items() if coded.how(s) in ("dynamic", "token")}
    wanted = {n: s for n, s in wanted.items() if not _finds_itself(coded, s, rules)}
    return brought_to_one(graph, wanted, {n: coded.how(s) == "dynamic" for n, s in wanted.items()})


def quantized(model: ir.Model, coded: Coded, ranges: Mapping[str, Range], rules: Rules) -> ir.Model:
    """The graph with every coding written in and every int8 layer between quantize/dequantize pairs.

    Args:
        model: the float graph; it is left as it is.
        coded: what to write.
        ranges: of all `activations(...).tensors`.
    """
    model, coded = expanded(model, coded)
    model = copied(model)
    ranges = {**ranges, **{new: ranges[old] for new, old in pooled(model).items() if old in ranges}}
    sites = locate_all(model, coded.layers)
    ranges |= _own_ranges(model.graph, coded, sites, rules)
    integer = _integer(coded, sites, rules)
    placement = place(model, list(integer.values()), rules)
    shared = {n: r for n, r in _shared_ranges(placement, ranges).items() if not r.empty}
    placement = placement.without(set(placement.tensors) - set(shared))  # nobody knows how far those reach
    fixed = {_read(s) for s in integer.values() if coded.how(s) == "static"}
    live = live_in(placement, integer, shared) - fixed if rules.live else set()
    by_kernel = _by_kernel(coded, sites, live, rules)
    between = {n for n, s in sites.items() if n not in integer and _between(s, coded.codings.get(n), placement, rules)}
    for name, site in sites.items():
        if name in coded.codings:
            if name in between:
                _write_int8(model.graph, site, coded.codings[name], shared)
            elif name in by_kernel:
                _write_live(model.graph, site, coded.codings[name])
            else:
                _write_weight(model.graph, site, coded, shared, rules)
    write_recurrent(model.graph, coded, rules.live)
    round_live(model.graph, [(s.uses[0][0], 0) for n, s in by_kernel.items() if n not in coded.codings])
    _write_pairs(model.graph, placement.without(live), shared, rules)
    rounded = {node for n in {*integer, *between} if n in coded.codings for node, _ in sites[n].uses}
    for name, readers in placement.readers.items():
        for node, index in readers:
            if node.op_type in rules.guards and index == 0 and node not in rounded:
                _guard(model.graph, node, shared[name])
    return drop_unused(rowed(carried(model)))


def _between(site: Site, coding: Coding | None, placement: Placement, rules: Rules) -> bool:
    """Weight-only among quantized values: its codes can be multiplied as they are, its input is rounded anyway."""
    reads = {(id(node), index) for readers in placement.readers.values() for node, index in readers}
    fits = isinstance(coding, Grid) and fits_int8(coding) and bool(site.uses)
    return fits and all(n.op_type in rules.guards and i == 1 and (id(n), 0) in reads for n, i in site.uses)


def _guard(graph: ir.Graph, node: ir.Node, r: Range) -> None:
    """A maximum with the least value there is changes nothing, but hides from the runtime where values come from."""
    least = constant(graph, f"{node.name}_least", np.array(-r.zero_point * r.scale, np.float32))
    guard = ir.node("Max", [node.inputs[0], least], name=f"{node.name}_guard")
    value = guard.outputs[0]
    value.name, value.type = f"{node.name}_guarded", ir.TensorType(ir.DataType.FLOAT)
    graph.insert_before(node, guard)
    node.replace_input_with(0, value)


def _shared_ranges(placement: Placement, ranges: Mapping[str, Range]) -> dict[str, Range]:
    leaders: dict[str, Range] = {}
    for name in placement.tensors:
        leader = placement.find(name)
        leaders[leader] = leaders[leader].joined(ranges[name]) if leader in leaders else ranges[name]
    for name in placement.centered & set(leaders):
        leaders[name] = leaders[name].centered
    return {name: leaders[placement.find(name)] for name in placement.tensors}


def _write_weight(graph: ir.Graph, site: Site, coded: Coded, ranges: Mapping[str, Range], rules: Rules) -> None:
    coding = coded.codings[site.layer.name]
    if coded.how(site) in INTEGERS:
        _write_int8(graph, site, coding, ranges)
    elif is_float(coding):
        _write_float(site, coding)
    elif isinstance(coding, Grid) and _is_large_table(site) and fits_int8(coding):
        _write_rows(graph, site, int8_matrix(coding))
    elif isinstance(coding, Grid) and _multiplies(site) and fits_int8(coding) and _codes_pay(site.layer, rules):
        _write_integer(graph, site, int8_matrix(coding))
    elif takes_nbits(site, coding):
        assert isinstance(coding, Grid)
        write_nbits(graph, site, coding)
    else:
        _write_decoded(graph, site, coding)


def _write_int8(graph: ir.Graph, site: Site, coding: Coding, ranges: Mapping[str, Range]) -> None:
    matrix = int8_matrix(coding)
    value = _write_integer(graph, site, matrix)
    for node, _ in site.uses:
        _write_bias(graph, node, value, matrix, site, ranges)


def _write_live(graph: ir.Graph, site: Site, coding: Coding) -> None:
    matrix = int8_matrix(coding)
    chain = Chain(graph, site.value.name or site.layer.name)
    codes = _codes(chain, site.tensor(matrix.codes), matrix)
    chain.place()
    write_live(graph, site, codes, _file_scale(site, matrix))


def _multiplies(site: Site) -> bool:
    """Runtimes multiply with such a weight without making it float first; all others are folded at loading."""
    return site.axis == 1 and len(site.permuted) == 2 and all((n.op_type, i) in PRODUCTS for n, i in site.uses)


def _is_large_table(site: Site) -> bool:
    return set(site.operators) == {"Gather"} and site.axis == 0 and site.layer.weight.numel() >= TABLE


def _codes_pay(layer: Layer, rules: Rules) -> bool:
    """Whether a product with codes is quicker than one with floats; a large weight stays small in memory at least."""
    weights = layer.weight.numel()
    return weights >= min(rules.codes_pay_from * layer.macs // weights, LARGE)


def _write_decoded(graph: ir.Graph, site: Site, coding: Coding) -> None:
    products = all((n.op_type, i) in PRODUCTS for n, i in site.uses)
    chain = Chain(graph, site.value.name or site.layer.name, folded=not products)
    value = laid_out(chain, decoded(chain, coding), site)
    value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), site.value.shape
    chain.place()
    for user, index in site.uses:
        user.replace_input_with(index, value)


def _write_float(site: Site, coding: Coding) -> None:
    matrix = coding.decode() if site.gain is None else coding.decode() * site.gain[:, None]
    array = site.tensor(matrix).numpy()
    site.value.const_value = ir.tensor(array.astype(np.float32), name=site.value.name)


def _write_integer(graph: ir.Graph, site: Site, matrix: Int8Matrix) -> ir.Value:
    """Codes -> DequantizeLinear(axis = output channels) -> everyone who read the float weight."""
    chain = Chain(graph, site.value.name or site.layer.name)
    scale = _file_scale(site, matrix)
    codes = _codes(chain, site.tensor(matrix.codes), matrix)
    zero = chain.constant("zero_point", np.zeros(scale.shape, np.int8))
    value = chain.op("DequantizeLinear", codes, chain.constant("scale", scale), zero, axis=site.axis)
    value.name = f"{chain.name}_dequantized"
    value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), site.value.shape
    chain.place()
    for user, index in site.uses:
        user.replace_input_with(index, value)
    return value


def _codes(chain: Chain, codes: Tensor, matrix: Int8Matrix) -> ir.Value:
    return stored_codes(chain, codes.numpy(), matrix.bits, -(1 << (matrix.bits - 1)))


def _write_rows(graph: ir.Graph, site: Site, matrix: Int8Matrix) -> None:
    """An embedding: the rows are picked as integers and only they are made float, with their own scales."""
    chain = Chain(graph, site.value.name or site.layer.name)
    name, codes = chain.name, _codes(chain, site.tensor(matrix.codes), matrix)
    chain.place()
    scale = constant(graph, f"{name}_scale", _file_scale(site, matrix).reshape(-1, *[1] * (site.layer.weight.ndim - 1)))
    for i, (node, _) in enumerate(site.uses):
        rows = ir.node("Gather", [codes, node.inputs[1]], attributes={"axis": 0}, name=f"{name}_rows{i}")
        floats = ir.node("Cast", [rows.outputs[0]], attributes={"to": ir.DataType.FLOAT}, name=f"{name}_cast{i}")
        scales = ir.node("Gather", [scale, node.inputs[1]], attributes={"axis": 0}, name=f"{name}_scales{i}")
        product = ir.node("Mul", [floats.outputs[0], scales.outputs[0]], name=f"{name}_product{i}")
        (node.graph or graph).insert_before(node, [rows, floats, scales, product])
        for part in (rows, floats, scales, product):
            part.outputs[0].name = f"{part.name}_output"
        old, new = node.outputs[0], product.outputs[0]
        new.name, new.type, new.shape = f"{old.name}_decoded", old.type, old.shape
        old.replace_all_uses_with(new, replace_graph_outputs=True)


def _file_scale(site: Site, matrix: Int8Matrix) -> np.ndarray:
    scale = matrix.scale if site.gain is None else matrix.scale * site.gain
    return scale.numpy().astype(np.float32)


def _write_bias(
    graph: ir.Graph, node: ir.Node, weight: ir.Value, matrix: Int8Matrix, site: Site, ranges: Mapping[str, Range]
) -> None:
    """The bias as int32 in units of input scale x weight scale: what the integer kernels add."""
    bias = array_of(node.inputs[2]) if len(node.inputs) > 2 and node.op_type != "MatMul" else None
    x = node.inputs[0]
    if bias is None or x is None or x.name not in ranges or bias.ndim != 1:
        return
    step = np.float32(ranges[str(x.name)].scale)
    scale = step * _file_scale(site, matrix)
    with np.errstate(divide="ignore", invalid="ignore"):
        codes = np.round(bias.astype(np.float64) / scale)
    if not np.abs(codes).max(initial=0) <= INT32:  # a dead channel with a bias: its scale means nothing
        return
    name = node.inputs[2].name  # type: ignore[union-attr]
    chain = Chain(graph, str(name))
    if len(scale) < FEW:
        held = chain.constant("scale", scale)
    else:  # the runtime multiplies at loading; four bytes a channel less
        own = weight.producer().inputs[1]  # type: ignore[union-attr]
        held = chain.op("Mul", own, chain.shared(f"step_{x.name}", step.reshape(1)))  # type: ignore[arg-type]
        chain.place()
    pair = ir.node(
        "DequantizeLinear", [chain.constant("int32", codes.astype(np.int32)), held],
        attributes={"axis": 0}, name=_unique(graph, f"{name}_dequantize", node),
    )  # fmt: skip
    pair.outputs[0].name = f"{name}_dequantized@{node.name}"
    graph.insert_before(node, pair)
    node.replace_input_with(2, pair.outputs[0])


def _unique(graph: ir.Graph, name: str, reader: ir.Node) -> str:
    """The name of a new node; a layer that is used several times has one for each reader."""
    return f"{name}@{reader.name}" if any(n.name == name for n in graph) else name


def _write_pairs(graph: ir.Graph, placement: Placement, ranges: Mapping[str, Range], rules: Rules) -> None:
    values = {v.name: v for v in graph.inputs} | {v.name: v for n in graph for v in n.outputs}
    scales: dict[Range, tuple[ir.Value, ir.Value]] = {}
    for name, readers in placement.readers.items():
        value, r = values[name], ranges[name]
        signed = rules.signed and r.zero_point == MIDDLE
        if r not in scales:
            zero = np.array(0, np.int8) if signed else np.array(r.zero_point, np.uint8)
            scales[r] = (
                constant(graph, f"{name}_scale", np.array(r.scale, np.float32)),
                constant(graph, f"{name}_zero_point", zero),
            )
        q = ir.node("QuantizeLinear", [value, *scales[r]], name=f"{name}_quantize")
        dq = ir.node("DequantizeLinear", [q.outputs[0], *scales[r]], name=f"{name}_dequantize")
        q.outputs[0].name, dq.outputs[0].name = f"{name}_quantized", f"{name}_dequantized"
        codes = ir.DataType.INT8 if signed else ir.DataType.UINT8
        q.outputs[0].type, dq.outputs[0].type = ir.TensorType(codes), ir.TensorType(ir.DataType.FLOAT)
        q.outputs[0].shape = dq.outputs[0].shape = value.shape
        producer = value.producer()
        if producer is None:
            graph.insert_before(graph[0], [q, dq])
        else:
            graph.insert_after(producer, [q, dq])
        for node, index in readers:
            node.replace_input_with(index, dq.outputs[0])
