"""How much of what post-training quantization loses does quantization-aware training bring back?

Two post-training results are what is lost from, on the test part, against the float network. `loss_points_nearest` is
the plain one: weights rounded to nearest, nothing else; steps and activation ranges are those of least squared error.
`loss_points_ptq` is ours: weights rounded with error feedback on the second moments of 512 samples (`Uniform`; at two
bits `HalfSteps`), biases corrected. That is done twice, for all layers at once and in turn, each layer for what the
rounded ones before it give; the better one on the test part counts, which favours it. `loss_points_qat` is what is lost
after training from the latter (`LSQ` with distillation; its end, or a state that was surely better on samples of the
lesson set aside). `recovered_share` = 1 - qat / ptq, `recovered_share_of_nearest` = 1 - qat / nearest. Every layer that
is named is quantized, first and last alike, one step for each output channel of a weight and one for each activation
tensor.

W4A4 and W2A8: W bits of the weights, A of the activations. Four-bit activations are simulated, no runtime here
executes them. A part is a net, its bits and a seed (which samples calibrate, and the order of those that train); parts
that are in the file of results already are not run again unless --again is given.

    python benchmarks/qat.py [--quick] [--nets resnet_8,silero] [--bits W4A4,W2A8] [--seeds 0,1,2]
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import common
import torch
from qat_nets import NETS, Net
from torch import nn

from lessen.aware import fit_in_turn
from lessen.models.put import put_matrix
from lessen.statistics import Statistics
from lessen.train import copied
from lessen.train.lsq import LSQ
from lessen.train.method import Lesson
from lessen.train.pact import PACT
from lessen.train.qat import QuantizationAware
from lessen.train.qat_inputs import remove_inputs
from lessen.train.qat_start import Start
from lessen.train.qat_straight import StraightThrough

NAME = "qat"
BITS = {"W4A4": (4, 4), "W2A8": (2, 8)}
METHODS: dict[str, type[QuantizationAware]] = {"lsq": LSQ, "pact": PACT, "straight_through": StraightThrough}
FIGURES = {
    "loss_points_nearest": "points", "loss_points_ptq": "points", "loss_points_qat": "points",
    "recovered_share": "share", "recovered_share_of_nearest": "share",
}  # fmt: skip
LITTLE = 0.2  # points: trainings from two seeds differ by so much


@dataclass(frozen=True)
class Lost:
    """Points lost against the float network: by plain rounding, by the best post-training result, after training."""

    nearest: float
    ptq: float
    qat: float


def run(net: Net, method: QuantizationAware, seed: int, quick: bool) -> Lost:
    """One training and what it starts from."""
    lesson = Lesson(net.module, net.layers, net.lessons(seed, quick), distillation=net.distillation, seed=seed)
    untrained = replace(method, epochs=0)
    plain, at_once, in_turn = (copied(net.module) for _ in range(3))
    untrained.fit_from(nearest(net, plain, untrained), plain, lesson)
    untrained.fit(at_once, lesson)
    told = fit_in_turn(untrained, in_turn, lesson)
    student = copied(in_turn)
    remove_inputs(student)
    start = Start({x.name: x for x in net.layers}, told.codings, tuple(told.inputs))
    with torch.autocast("cpu", torch.bfloat16, enabled=net.bfloat16, cache_enabled=False):
        notes = method.fit_from(start, student, lesson).notes
    points = [net.score(x, quick) for x in (net.module, plain, at_once, in_turn, student)]
    names = ("float", "nearest", "at once", "in turn", "trained")
    print(" ", ", ".join(f"{n} {p:.3f}" for n, p in zip(names, points, strict=True)), *notes, flush=True)
    return Lost(*(points[0] - p for p in (points[1], max(points[2:4]), points[4])))


def nearest(net: Net, student: nn.Module, method: QuantizationAware) -> Start:
    """Every weight at the nearest level of its grid; changes the student."""
    technique, nothing = replace(method.grid, feedback=False), Statistics()
    codings = {layer.name: technique.encode(layer, nothing) for layer in net.layers}
    for layer in net.layers:
        put_matrix(student, layer, codings[layer.name].decode(), None)
    return Start({x.name: x for x in net.layers}, codings, tuple(codings))


def rows_of(who: str, what: str, net: Net, lost: Lost) -> list[common.Row]:
    """One run."""
    shares = [1 - lost.qat / of if of > 0 else None for of in (lost.ptq, lost.nearest)]
    values = (lost.nearest, lost.ptq, lost.qat, *shares)
    return [_row(who, what, figure, value, lost.ptq, n=net.n, metric=net.metric)
            for figure, value in zip(FIGURES, values, strict=True)]  # fmt: skip


def _row(who: str, what: str, figure: str, value: float | None, ptq: float, **more: Any) -> common.Row:
    note = None
    if value is None:
        note = "nothing was lost that could be recovered"
    elif figure == "recovered_share" and ptq < LITTLE:
        note = f"post-training loses less than {LITTLE} points, about what trainings differ by: this share says nothing"
    return common.row(who, what, figure, value, FIGURES[figure], note=note, **more)


def summary(what: str, rows: list[common.Row]) -> list[common.Row]:
    """Mean over the seeds, with the least and the greatest."""
    made = []
    for who in sorted({r["who"] for r in rows}):
        his = [r for r in rows if r["who"] == who and r["value"] is not None]
        found = {f: [r for r in his if r["figure"] == f] for f in FIGURES}
        means = {f: sum(r["value"] for r in of) / len(of) for f, of in found.items() if of}
        for figure, mean in means.items():
            values, one = [r["value"] for r in found[figure]], found[figure][0]
            made.append(_row(who, what, figure, mean, means["loss_points_ptq"], n=one["n"], metric=one["metric"],
                             low=min(values), high=max(values), seeds=len(values)))  # fmt: skip
    return made


def main() -> None:
    """Run, print, write."""
    parser = common.parser(__doc__ or "", "a few hundred samples of one net, one seed")
    parser.add_argument("--nets", default=",".join(NETS), help=f"of {', '.join(NETS)}")
    parser.add_argument("--bits", default=",".join(BITS), help=f"of {', '.join(BITS)}")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--method", default="lsq", choices=sorted(METHODS))
    parser.add_argument("--again", action="store_true", help="run what is in the results already")
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = options.out or (None if options.quick else common.RESULTS / f"{NAME}.json")
    nets, bits, seeds = ("resnet_8", "W2A8", "0") if options.quick else (options.nets, options.bits, options.seeds)
    for name in nets.split(","):
        net = NETS[name]()
        for width in bits.split(","):
            for seed in seeds.split(","):
                part_of_run(net, f"{name} {width}", int(seed), METHODS[options.method], options, path)
            if path:
                summarize(path, f"{name} {width}")


def part_of_run(
    net: Net, what: str, seed: int, method: type[QuantizationAware], options: Any, path: Path | None
) -> None:  # fmt: skip
    """One net at one number of bits with one seed."""
    who = "lessen" if method is LSQ else f"lessen/{method.__name__}"
    part = f"{what} seed {seed}" + ("" if method is LSQ else f" {method.__name__}")
    if path and path.is_file() and part in json.loads(path.read_text())["parts"] and not options.again:
        print(f"{part}: done before", file=sys.stderr)
        return
    started = time.perf_counter()
    width = what.split()[1]
    epochs = 1 if options.quick else net.epochs[width]
    setting = method(*BITS[width], epochs=epochs, lr=net.lr[width], batch_size=net.batch)
    rows = rows_of(who, part, net, run(net, setting, seed, options.quick))
    common.show(rows)
    if path:
        common.save(path, f"python benchmarks/{NAME}.py", part, rows, time.perf_counter() - started)


def summarize(path: Path, what: str) -> None:
    """The rows over all seeds that are in the file."""
    rows = summary(what, [r for r in common.rows(path) if r["what"].startswith(f"{what} seed ")])
    common.save(path, f"python benchmarks/{NAME}.py", what, rows, 0.0)
    common.show(rows)


if __name__ == "__main__":
    main()
