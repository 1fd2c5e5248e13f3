"""How much of what post-training quantization loses does quantization-aware training bring back?

`loss_points_ptq` is what the post-training result loses on the test part against the float network: weights rounded
with error feedback on the second moments of 512 samples (`Uniform`), biases corrected, activation ranges of least
squared error. That is done twice, for all layers at once and in turn, each layer for what the rounded ones before it
give; the better one on the test part counts, which favours it. `loss_points_qat` is what is lost after training from
the latter (`LSQ` with distillation); `recovered_share` = 1 - qat / ptq. Every layer that is named is quantized, first
and last alike, one step for each output channel of a weight and one for each activation tensor.

W4A4 and W2A8: W bits of the weights, A of the activations. Four-bit activations are simulated, no runtime here
executes them. A part is a net, its bits and a seed (which samples calibrate, and the order of those that train); parts
that are in the file of results already are not run again unless --again is given.

    python benchmarks/qat.py [--quick] [--nets resnet_8,silero] [--bits W4A4,W2A8] [--seeds 0,1,2]
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import common
import torch
from qat_nets import NETS, Net

from lessen.aware import fit_in_turn
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
FIGURES = ("loss_points_ptq", "loss_points_qat", "recovered_share")


def run(net: Net, method: QuantizationAware, seed: int, quick: bool) -> tuple[float, float]:
    """(points lost by the best post-training result, points lost after training)."""
    lesson = Lesson(net.module, net.layers, net.lessons(seed, quick), distillation=net.distillation, seed=seed)
    untrained = replace(method, epochs=0)
    at_once, in_turn = (copied(net.module) for _ in range(2))
    untrained.fit(at_once, lesson)
    told = fit_in_turn(untrained, in_turn, lesson)
    student = copied(in_turn)
    remove_inputs(student)
    start = Start({x.name: x for x in net.layers}, told.codings, tuple(told.inputs))
    with torch.autocast("cpu", torch.bfloat16, enabled=net.bfloat16, cache_enabled=False):
        method.fit_from(start, student, lesson)
    points = [net.score(x, quick) for x in (net.module, at_once, in_turn, student)]
    print(
        f"  float {points[0]:.3f}, at once {points[1]:.3f}, in turn {points[2]:.3f}, trained {points[3]:.3f}",
        flush=True,
    )
    return points[0] - max(points[1:3]), points[0] - points[3]


def rows_of(who: str, what: str, net: Net, ptq: float, qat: float) -> list[common.Row]:
    """One run."""
    values = zip(FIGURES, (ptq, qat, 1 - qat / ptq if ptq > 0 else 1.0), ("points", "points", "share"), strict=True)
    return [common.row(who, what, figure, value, unit, n=net.n, metric=net.metric) for figure, value, unit in values]


def summary(what: str, rows: list[common.Row]) -> list[common.Row]:
    """Mean over the seeds, with the least and the greatest."""
    made = []
    for who in sorted({r["who"] for r in rows}):
        for figure in FIGURES:
            found = [r for r in rows if r["who"] == who and r["figure"] == figure]
            values = [r["value"] for r in found]
            made.append(common.row(who, what, figure, sum(values) / len(values), found[0]["unit"], n=found[0]["n"],
                                   low=min(values), high=max(values), seeds=len(values),
                                   metric=found[0]["metric"]))  # fmt: skip
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
    weights, activations = BITS[what.split()[1]]
    setting = method(weights, activations, epochs=1 if options.quick else net.epochs, lr=net.lr, batch_size=net.batch)
    rows = rows_of(who, part, net, *run(net, setting, seed, options.quick))
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
