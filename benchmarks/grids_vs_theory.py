"""Grids against theory on Gaussian weights, and our rounding against the published GPTQ on real layers.

Gaussian: a million weights (all quantiles, in random order), rounded to nearest on each kind of grid. `theory` is the
least error that such a grid can have (Lloyd-Max for k-means; integrals over the density, grids_vs_theory_curves.py),
and for entropy-coded cells of one width the error of the ideal entropy-coded scalar quantizer at the rate that our
file really takes. `excess` is mse / theory - 1.

Layers: linear layers of real networks with the second moments of real data. `error_ratio` is the error of `Uniform`
over that of the published GPTQ (blocks of 128, 1 % dampening) with the better of its two column orders, layer by
layer; `error_ratio_held_out` the same under second moments of other samples. A layer with fewer observations than
columns has a singular second moment: under that very moment errors in its null space are free, and ours takes care of
these too; `_determined` leaves such layers out (given where there are any). `seconds_ratio` is processor time against
GPTQ with act-order alone, both by turns.

    python benchmarks/grids_vs_theory.py [--quick] [--parts gaussian,entropy,size,character_gpt,minilm,whisper_tiny]
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import common
import grids_vs_theory_curves as theory
import torch
import weight_only_published as published
from torch import Tensor
from weight_only_tasks import TASKS
from weight_only_walk import moments

from lessen import FixedPoint, KMeans, LowFloat, NormalFloat, PowerOfTwo, Quantile, Uniform
from lessen.codings import Codebook
from lessen.codings.container import Package, to_bytes
from lessen.models.layer import Layer
from lessen.quantize.low_float import low_float
from lessen.quantize.normal_float import normal_float
from lessen.quantize.power_of_two import power_of_two
from lessen.statistics import Statistics

NAME, WEIGHTS = "grids_vs_theory", (1024, 1024)
LAYER_SETTINGS = ((4, None), (4, 128), (3, None), (2, None))
Parts = Iterator[tuple[str, list[common.Row]]]


def grids() -> Iterator[tuple[str, object, Callable[[], float]]]:
    """(name, technique that rounds to nearest, its theory)."""
    for b in range(2, 9):
        yield f"uniform, {b} bits", Uniform(b, "tensor", feedback=False), lambda b=b: theory.uniform(b)
    for b in range(1, 9):
        yield f"k-means, {b} bits", KMeans(1 << b, feedback=False), lambda b=b: theory.lloyd_max(b)
    for b in (2, 3, 4, 6):
        yield f"quantile, {b} bits", Quantile(1 << b), lambda b=b: theory.quantile(b)
    for b in (2, 3, 4):
        made = NormalFloat(b, "tensor", feedback=False)
        yield f"normal float, {b} bits", made, lambda b=b: theory.table(normal_float(b))
    for b, terms in ((3, 1), (4, 1), (4, 2), (6, 2)):
        made = PowerOfTwo(b, terms, "tensor", feedback=False)
        what = f"powers of two, {b} bits, {terms} a weight"
        yield what, made, lambda b=b, t=terms: theory.powers_of_two(power_of_two(b, t))
    for name in ("e2m1", "e2m3", "e4m3"):
        made = LowFloat(name, "tensor", feedback=False)
        yield f"float {name}", made, lambda n=name: theory.table(low_float(n))
    for b in (3, 4, 8):
        yield f"fixed point, {b} bits", FixedPoint(b, "tensor", rounding="nearest"), lambda b=b: theory.fixed_point(b)


def _weights() -> Layer:
    """All quantiles of the Gaussian in random order: as good as infinitely many random weights."""
    count = math.prod(WEIGHTS)
    share = (torch.randperm(count, generator=torch.Generator().manual_seed(0)).double() + 0.5) / count
    return Layer("w", "linear", torch.special.ndtri(share).float().reshape(WEIGHTS))


def gaussian(quick: bool) -> Parts:
    """Every grid at every number of bits."""
    layer = _weights()
    for what, technique, limit in list(grids())[:: 6 if quick else 1]:
        error = (technique.encode(layer, Statistics()).decode() - layer.matrix).double().square()
        yield what, _against(what, float(error.mean()), limit())


def entropy(quick: bool) -> Parts:
    """Cells of one width, each held as its mean (in float16), through the entropy coder of our file."""
    layer = _weights()
    for step in (0.9,) if quick else (2.0, 1.2, 0.9, 0.45, 0.22):
        codes = (layer.matrix / step).round()
        index = (codes - codes.min()).long()
        sums, counts = (torch.zeros(int(index.max()) + 1, dtype=torch.float64) for _ in range(2))
        sums.index_add_(0, index.flatten(), layer.matrix.double().flatten())
        counts.index_add_(0, index.flatten(), torch.ones(index.numel(), dtype=torch.float64))
        book = Codebook(index.to(torch.uint8), (sums / counts.clamp_min(1)).half()[None])
        rate = 8 * len(to_bytes(Package(codings={"w": book}))) / codes.numel()
        error = (book.decode() - layer.matrix).double().square()
        what = f"entropy-coded, step {step}"
        rows = _against(what, float(error.mean()), theory.entropy_coded(rate))
        yield what, [*rows, common.row("lessen", what, "rate", rate, "bits a weight", note="bytes of the file")]


def _against(what: str, mse: float, limit: float) -> list[common.Row]:
    return [
        common.row("lessen", what, "mse", mse, "of variance 1"),
        common.row("lessen", what, "theory", limit, "of variance 1"),
        common.row("lessen", what, "excess", mse / limit - 1, "of the theory"),
    ]


@dataclass(eq=False)
class Duel:
    """Sums over layers."""

    names: list[str] = field(default_factory=list)
    enough: list[bool] = field(default_factory=list)
    seen: list[float] = field(default_factory=list)
    unseen: list[float] = field(default_factory=list)
    ours: float = 0.0
    theirs: float = 0.0

    def add(self, name: str, W: Tensor, H: tuple[Tensor, Tensor, int], setting: tuple[int, int | None]) -> None:
        """One layer: W [rows, columns]; second moments of calibration and of other samples, and how many rows."""
        bits, group = setting
        self.names.append(name)
        self.enough.append(H[2] >= W.shape[1])
        layer, known = Layer("w", "linear", W), Statistics(H[0], observations=H[2])
        technique = Uniform(bits, group or "channel", symmetric=False)
        started = time.process_time()
        Q = technique.encode(layer, known).decode()
        between = time.process_time()
        ordered = published.gptq(W, H[0][0], bits, group, True).weight
        self.ours, self.theirs = self.ours + between - started, self.theirs + time.process_time() - between
        plain = published.gptq(W, H[0][0], bits, group, False).weight
        for ratios, moment in ((self.seen, H[0]), (self.unseen, H[1])):
            errors = [float((((q - W) @ moment[0]) * (q - W)).sum(dtype=torch.float64)) for q in (Q, ordered, plain)]
            ratios.append(errors[0] / min(errors[1:]))

    def rows(self, what: str) -> list[common.Row]:
        """Geometric mean and worst layer."""
        made = []
        for figure, ratios in (("error_ratio", self.seen), ("error_ratio_held_out", self.unseen)):
            mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
            made.append(common.row("lessen", what, figure, mean, "of GPTQ's", n=len(ratios), note="geometric mean"))
            worst = max(range(len(ratios)), key=ratios.__getitem__)
            made.append(common.row("lessen", what, f"worst_{figure}", ratios[worst], "of GPTQ's", n=len(ratios),
                                   note=self.names[worst]))  # fmt: skip
        determined = [r for r, enough in zip(self.seen, self.enough, strict=True) if enough]
        if len(determined) < len(self.seen):
            for name, value in (("error_ratio", math.exp(sum(map(math.log, determined)) / len(determined))),
                                ("worst_error_ratio", max(determined))):  # fmt: skip
                made.append(common.row("lessen", what, f"{name}_determined", value, "of GPTQ's", n=len(determined)))
        made.append(common.row("lessen", what, "seconds_ratio", self.ours / self.theirs, "of GPTQ's"))
        made.append(common.row("lessen", what, "seconds", self.ours, "s of processor time"))
        made.append(common.row("GPTQ act-order (published)", what, "seconds", self.theirs, "s of processor time"))
        return made


def size(quick: bool) -> Parts:
    """One large layer, 768 x 3072 Gaussian weights and correlated inputs, each setting three times."""
    rows, columns = (96, 384) if quick else (768, 3072)
    g = torch.Generator().manual_seed(0)
    mix = torch.eye(columns) + 2 * torch.randn(columns, columns, generator=g) / columns**0.5
    x = torch.randn(4 * columns, columns, generator=g) @ mix * (0.7 * torch.randn(columns, generator=g)).exp()
    moments_of = [(h.T @ h / len(h))[None] for h in x.chunk(2)]
    W = torch.randn(rows, columns, generator=g)
    for bits, group in LAYER_SETTINGS[:1] if quick else LAYER_SETTINGS:
        duel = Duel()
        for turn in range(3):
            fresh = moments_of[0].clone()  # or the factor of the turn before would be used again
            if turn == 1:
                duel.ours = duel.theirs = 0.0  # the first turn warms up
            duel.add("w", W, (fresh, moments_of[1], 2 * columns), (bits, group))
        what = _what(f"{rows} x {columns}", bits, group)
        yield what, duel.rows(what)


def layers(name: str, quick: bool) -> Parts:
    """All linear layers of a network."""
    task = TASKS[name]()
    seen, unseen = moments(task, task.batches), moments(task, task.held_out)
    chosen = list(task.linears().items())[:: 4 if quick else 1]
    for bits, group in LAYER_SETTINGS[:1] if quick else LAYER_SETTINGS:
        duel = Duel()
        for path, module in chosen:
            if group is None or group < module.in_features:
                duel.add(path, module.weight.detach(), (seen[path][0], unseen[path][0], seen[path][1]), (bits, group))
        what = _what(name, bits, group)
        yield what, duel.rows(what)


def _what(name: str, bits: int, group: int | None) -> str:
    return f"{name}, {bits} bits, " + (f"groups of {group}" if group else "per channel")


PARTS: dict[str, Callable[[bool], Parts]] = {
    "gaussian": gaussian, "entropy": entropy, "size": size,
    **{name: lambda quick, name=name: layers(name, quick) for name in TASKS},
}  # fmt: skip


def main() -> None:
    """Run, print, write."""
    parser = common.parser(__doc__ or "", "a sixth of the grids, one rate, a small layer, a quarter of character_gpt")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    options = parser.parse_args()
    for part in ["gaussian", "entropy", "size", "character_gpt"] if options.quick else options.parts.split(","):
        started = time.perf_counter()
        for what, rows in PARTS[part](options.quick):
            common.show(rows)
            seconds, started = time.perf_counter() - started, time.perf_counter()
            common.keep(options, NAME, what, rows, seconds)


if __name__ == "__main__":
    main()
