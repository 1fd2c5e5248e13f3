"""Hadamard rotations folded into weights: outliers spread over all channels, the network computes the same.

Where linear layers, embeddings and residual sums alone touch a dimension, y' = R y for an orthogonal R changes nothing
as long as who writes it is multiplied by R and who reads it by R transposed (QuaRot: Ashkboos et al. 2024; QuIP#: Tseng
et al. 2024; SliceGPT: Ashkboos et al. 2024). A LayerNorm commutes with R if R maps the vector of ones to itself and its
gain has moved into the layers that read it; the values of a head commute with attention.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn

from ..errors import LessenError
from .exact import Exact, Part, Refolded, Undo, values
from .groups import Group, find_groups

_DEAD = 1e-6  # of the largest gain
_NOT_LINEAR = "something that is not linear lies between its layers"


def hadamard(size: int, seed: int = 0) -> Tensor:
    """Orthogonal R, float64 [size, size], that maps the vector of ones to itself and spreads every other one.

    R = B diag(1, +-1, ...) BT with B the Hadamard matrix (Kronecker a cosine transform, if `size` is no power of two)
    and signs drawn at random.
    """
    power = size & -size
    B = torch.ones(1, 1, dtype=torch.float64)
    while len(B) < power:
        B = torch.cat([torch.cat([B, B], 1), torch.cat([B, -B], 1)]) / math.sqrt(2)
    odd = size // power
    if odd > 1:
        grid = torch.arange(odd, dtype=torch.float64)
        cosines = torch.cos(math.pi / odd * (grid[:, None] + 0.5) * grid) * math.sqrt(2 / odd)
        cosines[:, 0] = 1 / math.sqrt(odd)
        B = torch.kron(cosines, B)
    signs = torch.randint(0, 2, (size,), generator=torch.Generator().manual_seed(seed)).double() * 2 - 1
    signs[0] = 1
    return (B * signs) @ B.T


@torch.no_grad()
def rotated(module: nn.Module, inputs: tuple[Tensor, ...], seed: int = 0) -> Refolded:
    """A copy with every dimension rotated that can be, without any operation more at run time.

    Args:
        module: in evaluation mode, batch norms folded; not changed.
        inputs: a sample or two, to run it with.
        seed: of the signs.

    Raises:
        LessenError: nothing can be rotated.
    """
    found = find_groups(module, inputs).groups
    work = Exact(module, inputs)
    pairs = work.norms()
    plain = {norm for norm, readers in pairs if work.kept(functools.partial(_bare, work, norm, readers))}
    left = [(n, "not only linear layers read it, or a channel of it is dead") for n, _ in pairs if n not in plain]
    folded = []
    for group in found:
        said, why = _rotate(work, group, plain, seed)
        folded += [said] if said else []
        left += [] if said else [(group.name, why)]
    if not folded:
        reasons = "; ".join(f"{n}: {why}" for n, why in left) or "it has no such dimensions"
        raise LessenError("no dimension can be rotated without changing what is computed", where=reasons)
    return work.refolded(folded, left)


def _bare(work: Exact, norm: str, readers: list[str]) -> Undo | None:
    """The gain of a norm goes into the layers that read it."""
    gain = work.module.get_parameter(f"{norm}.weight")
    if float(gain.abs().min()) <= _DEAD * float(gain.abs().max()):
        return None
    return work.into_readers(norm, readers, gain.clone())


def _rotate(work: Exact, group: Group, plain: set[str], seed: int) -> tuple[str, str]:
    """(what was rotated, "") or ("", why nothing was)."""
    norms = {m.path.rpartition(".")[0] for m in group.members if work.is_norm(m.path.rpartition(".")[0])}
    if norms - plain:
        return "", f"its norm {min(norms - plain)} keeps its gain"
    if all(m.index.shape[1] == 1 for m in group.members):
        parts = [(m.path, m.dim, m.index.T) for m in group.members]
        whole = group.size > 1 and work.kept(functools.partial(_turn, work, parts, hadamard(group.size, seed)))
        return (f"{group.name} ({group.size} channels)", "") if whole else ("", _NOT_LINEAR)
    for reader in work.readers(group):
        width = reader[2].shape[1]
        for made in values(group, reader) if width > 1 else ():
            if work.kept(functools.partial(_turn, work, [*made, reader], hadamard(width, seed))):
                return f"{reader[0].rpartition('.')[0]} ({group.size} heads of {width})", ""
    return "", _NOT_LINEAR


def _turn(work: Exact, parts: list[Part], R: Tensor) -> Undo:
    """R along these indices, for each block of them by itself."""
    return work.along(parts, lambda _, x: torch.tensordot(x, R, ([1], [1])).movedim(-1, 1))
