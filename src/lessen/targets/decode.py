"""Each coding as nodes that decode it to the bit, and how many bytes that takes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from torch import Tensor

from ..codings import Codebook, Coding, Grid, LowRank, ScaledCodebook
from .chain import INT32, Chain
from .locate import Site
from .packing import code_bytes, is_packed, stored_codes
from .weights import signed_bits

NODES = 190  # bytes that the nodes of one weight take in the file, about
BOOK_NODES = 50  # the same where one table serves all rows
NBITS = {4, 8}  # what MatMulNBits multiplies with
OP = "MatMulNBits"
DOMAIN = "com.microsoft"


def decoded(chain: Chain, coding: Coding) -> ir.Value:
    """The float matrix [rows, columns] of a coding, just as `decode()` gives it."""
    if isinstance(coding, Grid):
        return _grid(chain, coding)
    if isinstance(coding, Codebook):
        return _codebook(chain, coding)
    if isinstance(coding, ScaledCodebook):
        return _scaled(chain, coding)
    if isinstance(coding, LowRank):
        right, left = (Chain(chain.graph, f"{chain.name}.{side}", chain.folded) for side in ("right", "left"))
        factors = decoded(left, coding.left), decoded(right, coding.right)
        chain.nodes += left.nodes + right.nodes
        return chain.op("MatMul", *factors)
    return chain.constant("float", coding.decode().float().numpy())


def matrix_bytes(coding: Coding) -> int:
    """Bytes that `decoded` takes in the file: its tensors, and about what its nodes need."""
    rows, columns = coding.shape
    if isinstance(coding, Grid):
        codes, scale = code_bytes(rows * columns, signed_bits(coding.codes)), coding.scale
        zeros = 0 if coding.symmetric else zero_points(coding).nbytes
        return codes + 4 * scale.numel() + zeros + (NODES if scale.shape[1] == 1 else 2 * NODES)
    if isinstance(coding, (Codebook, ScaledCodebook)):
        nodes = BOOK_NODES if coding.centroids.shape[0] == 1 else NODES
        if isinstance(coding, ScaledCodebook):
            nodes += 4 * coding.scale.numel() + (NODES // 2 if coding.scale.shape[1] == 1 else NODES)
        return code_bytes(rows * columns, _index_bits(coding)) + 4 * coding.centroids.numel() + nodes
    if isinstance(coding, LowRank):
        return matrix_bytes(coding.left) + matrix_bytes(coding.right)
    return 4 * rows * columns


def grid_codes(chain: Chain, grid: Grid, codes: Tensor | None = None) -> ir.Value:
    """The grid's codes, in another layout if one is given."""
    bits = signed_bits(grid.codes)
    array = (grid.codes if codes is None else codes).numpy()
    return stored_codes(chain, array, bits, -(1 << (bits - 1)))


def zero_points(grid: Grid) -> np.ndarray:
    """int8 where they fit (they lie among the codes of a sane grid)."""
    zero = grid.zero_point.numpy()
    small = not zero.size or (zero.min() >= -128 and zero.max() <= 127)
    return zero.astype(np.int8 if small else np.int16)


def _grid(chain: Chain, grid: Grid) -> ir.Value:
    rows, columns = grid.shape
    value = chain.floats(grid_codes(chain, grid))
    groups = grid.scale.shape[1]
    if groups > 1:
        value = chain.shaped(value, (rows, groups, columns // groups))
    if not grid.symmetric:
        shape = (*grid.scale.shape, 1) if groups > 1 else tuple(grid.scale.shape)
        zero = chain.floats(chain.constant("zero_point", zero_points(grid).reshape(shape)))
        value = chain.op("Sub", value, zero)
    return _times_scale(chain, value, grid)


def _times_scale(chain: Chain, value: ir.Value, coding: Grid | ScaledCodebook) -> ir.Value:
    """The levels, [rows, columns] or in groups, times their scales: [rows, columns]."""
    grouped = coding.scale.shape[1] > 1
    scale = coding.scale.float().numpy()
    value = chain.op("Mul", value, chain.constant("scale", scale[..., None] if grouped else scale))
    return chain.shaped(value, coding.shape) if grouped else value


def _scaled(chain: Chain, book: ScaledCodebook) -> ir.Value:
    """As a codebook of one table, then the scales: NF4, FP4, MX and powers of two in as many bytes as they say."""
    levels = _codebook(chain, Codebook(book.indices, book.centroids))
    rows, groups = book.shape[0], book.scale.shape[1]
    if groups > 1:
        levels = chain.shaped(levels, (rows, groups, book.group_size))
    return _times_scale(chain, levels, book)


def _index_bits(book: Codebook | ScaledCodebook) -> int:
    return max((book.centroids.shape[1] - 1).bit_length(), 1)


def _codebook(chain: Chain, book: Codebook) -> ir.Value:
    indices = stored_codes(chain, book.indices.numpy(), _index_bits(book), 0)
    if not is_packed(book.indices.numel(), _index_bits(book)):
        indices = chain.op("Cast", indices, to=INT32)
    rows, k = book.centroids.shape
    if rows > 1:  # not GatherElements: OpenVINO does not fold it
        ends = (chain.shared(f"int{n}", np.array(n, np.int32)) for n in (0, rows * k, k))
        indices = chain.op("Add", indices, chain.shaped(chain.op("Range", *ends), (rows, 1)))
    return chain.op("Gather", chain.constant("centroids", book.centroids.float().numpy().reshape(-1)), indices, axis=0)


def laid_out(chain: Chain, value: ir.Value, site: Site) -> ir.Value:
    """A matrix turned into the initializer's layout, as `Site.tensor` does."""
    if site.gain is not None:
        value = chain.op("Mul", value, chain.constant("gain", site.gain.numpy()[:, None].astype(np.float32)))
    layer = site.layer
    shape, groups = tuple(layer.weight.shape), layer.groups
    if layer.kind == "conv_transpose":
        value = chain.shaped(value, (groups, shape[1], shape[0] // groups, *shape[2:]))
        value = chain.op("Transpose", value, perm=[0, 2, 1, *range(3, len(shape) + 1)])
        value, order = chain.shaped(value, shape), list(range(len(shape)))
    else:
        axes = [layer.out_axis, *(a for a in range(len(shape)) if a != layer.out_axis)]
        if len(shape) > 2:
            value = chain.shaped(value, tuple(shape[a] for a in axes))
        order = [axes.index(a) for a in range(len(shape))]
    perm = [order[a] for a in site.permuted]
    return value if perm == sorted(perm) else chain.op("Transpose", value, perm=perm)


def takes_nbits(site: Site, coding: Coding) -> bool:
    """A grid of 4 or 8 bits in groups, read as the right factor of matrix products: there is an operator for it."""
    if not isinstance(coding, Grid) or coding.scale.shape[1] == 1 or coding.scale.shape[0] != coding.shape[0]:
        return False
    size = coding.group_size
    plain = site.gain is None and site.layer.kind == "linear" and all(n.op_type == "MatMul" for n, _ in site.uses)
    half = 1 << (signed_bits(coding.codes) - 1)
    inside = bool(((coding.zero_point >= -half) & (coding.zero_point < half)).all())
    return (
        plain
        and inside
        and signed_bits(coding.codes) in NBITS
        and size >= 16
        and size & (size - 1) == 0
        and bool(site.uses)
    )


def write_nbits(graph: ir.Graph, site: Site, grid: Grid) -> None:
    """Replaces each MatMul by a MatMulNBits on the codes as they are."""
    rows, columns = grid.shape
    bits, groups, size = signed_bits(grid.codes), grid.scale.shape[1], grid.group_size
    chain = Chain(graph, site.value.name or site.layer.name)
    middle = 1 << (bits - 1)
    codes = (grid.codes.numpy().astype(np.int16) + middle).astype(np.uint8).reshape(rows, groups, size)
    stored = chain.constant(f"nbits{bits}", _bytes(codes, bits))
    inputs = [stored, chain.constant("scale", grid.scale.float().numpy().reshape(-1))]
    if not grid.symmetric:
        zero = (grid.zero_point.numpy().astype(np.int16) + middle).clip(0, 2 * middle - 1).astype(np.uint8)
        inputs.append(chain.constant("zero_point", _bytes(zero, bits).reshape(-1)))
    for node, _ in site.uses:
        made = ir.node(
            OP, [node.inputs[0], *inputs], domain=DOMAIN, name=f"{node.name}_nbits",
            attributes={"K": columns, "N": rows, "bits": bits, "block_size": size, "accuracy_level": 4},
        )  # fmt: skip
        (node.graph or graph).insert_before(node, made)
        old, new = node.outputs[0], made.outputs[0]
        new.name, new.type, new.shape = f"{old.name}_nbits", old.type, old.shape
        old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.opset_imports.setdefault(DOMAIN, 1)


def _bytes(codes: np.ndarray, bits: int) -> np.ndarray:
    """Two 4-bit codes a byte along the last axis, the first one low."""
    if bits == 8:
        return codes
    if codes.shape[-1] % 2:
        codes = np.concatenate([codes, np.zeros((*codes.shape[:-1], 1), np.uint8)], -1)
    return codes[..., ::2] | (codes[..., 1::2] << 4)
