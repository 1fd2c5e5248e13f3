"""Does a small network that was trained to say which weights to keep beat magnitude, and on other networks too?

One-shot: weights are removed at one sparsity of all layers together, none is trained afterwards or moved, and accuracy
is measured on the test part. `lessen` prunes by a predictor trained on that very network (`LearnedPruning`); it only
ever sees training samples. `lessen/transfer` prunes by predictors trained on the other networks (`LearnedMask`), which
never saw the one they prune. Beside them magnitude: per layer, with one threshold for all layers, and with the layer
budgets of LAMP and ERK; `lessen/magnitude` is the best of the four on the test part, which favours it.

Three seeds of the predictor (its first weights, which samples and in what order); a part is a network and a seed, and
those that are in the file of results already are not run again unless --again is given.

    python benchmarks/learned_pruning.py [--quick] [--nets resnet_8,lenet_300_100] [--seeds 0,1,2]
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import common
import torch
from torch import nn

import zoo
from lessen.allocation import allocated
from lessen.data import Part, load_data
from lessen.models import Layer, fold_batchnorm, trace
from lessen.prune import Magnitude
from lessen.prune.learned import LearnedMask
from lessen.statistics import Statistics, collect
from lessen.technique import Technique
from lessen.train import copied
from lessen.train.learned import LearnedPruning
from lessen.train.method import Lesson

NAME = "learned_pruning"
BUDGETS = ("layer", "global", "lamp", "erk")
SPARSITIES = {"resnet_8": 0.5, "lenet_300_100": 0.9}
LESSONS, LR = 4096, 5e-3


@dataclass(frozen=True, eq=False)
class Net:
    """A trained network and what calibration knows of it."""

    module: nn.Module
    layers: tuple[Layer, ...]
    statistics: dict[str, Statistics]
    sparsity: float

    def pruned(self, technique: Technique) -> nn.Module:
        """A copy without the weights that the technique removes; nothing else is changed."""
        twin, each = copied(self.module), allocated(technique, self.layers, self.statistics)
        for layer in self.layers:
            coding = each[layer.name].encode(layer, self.statistics[layer.name])
            with torch.no_grad():
                twin.get_parameter(layer.name).copy_(layer.from_matrix(coding.decode()))
        return twin


@cache
def net(name: str) -> Net:
    """One of the zoo's networks for Fashion-MNIST."""
    x = zoo.fashion_mnist()[0]
    module = fold_batchnorm(getattr(zoo, name)(), (x[:2],))[0]
    layers = trace(module, (x[:2],)).layers
    return Net(module, layers, collect(module, layers, lessons(0, 512).batches()), SPARSITIES[name])


def lessons(seed: int, count: int) -> Part:
    """Training samples."""
    x, y, _, _ = zoo.fashion_mnist()
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:count]
    whole: Any = {"calibration": (x[rows], y[rows]), "validation": (x[:8], y[:8]), "test": (x[8:16], y[8:16])}
    return load_data(whole).calibration


def score(module: nn.Module, quick: bool) -> float:
    """Accuracy on test images, as a share."""
    few = slice(0, 2000 if quick else None)
    x, y = (t[few] for t in zoo.fashion_mnist()[2:])
    return zoo.accuracy(module, x, y)


def rows_of(name: str, part: str, seed: int, quick: bool, folder: Path) -> list[common.Row]:
    """One network, one seed."""
    this = net(name)
    found: dict[str, float] = {"lessen/float": score(this.module, quick)}
    for budget in BUDGETS:
        found[f"lessen/magnitude {budget}"] = score(this.pruned(Magnitude(this.sparsity, budget)), quick)
    found["lessen/magnitude"] = max(v for k, v in found.items() if k.startswith("lessen/magnitude "))
    learn(name, seed, quick, folder)
    for other in SPARSITIES:
        path = folder / f"{other}-{seed}.safetensors"
        if path.is_file():
            who = "lessen" if other == name else f"lessen/transfer from {other}"
            found[who] = score(this.pruned(LearnedMask(this.sparsity, str(path))), quick)
    n = 2000 if quick else len(zoo.fashion_mnist()[3])
    return [common.row(who, part, "accuracy", v, "share", n=n, sparsity=this.sparsity) for who, v in found.items()]


def learn(name: str, seed: int, quick: bool, folder: Path) -> Path:
    """Trains a predictor on a network, once."""
    path = folder / f"{name}-{seed}.safetensors"
    if not path.is_file():
        this, part = net(name), lessons(seed + 1, 1024 if quick else LESSONS)
        student, lesson = copied(this.module), Lesson(this.module, this.layers, part, seed=seed)
        LearnedPruning(this.sparsity, lr=LR, save=str(path)).fit(student, lesson)
    return path


def summary(what: str, rows: list[common.Row]) -> list[common.Row]:
    """Mean over the seeds, with the least and the greatest; transfers also all together."""
    values: dict[str, list[float]] = {}
    for r in rows:
        values.setdefault(r["who"], []).append(r["value"])
        if "transfer from" in r["who"]:
            values.setdefault("lessen/transfer", []).append(r["value"])
    made = {"n": rows[0]["n"], "sparsity": rows[0]["sparsity"]}
    return [common.row(who, what, "accuracy", sum(v) / len(v), "share", low=min(v), high=max(v), runs=len(v), **made)
            for who, v in values.items()]  # fmt: skip


def main() -> None:
    """Run, print, write."""
    parser = common.parser(__doc__ or "", "a thousand samples, the smallest network, one seed")
    parser.add_argument("--nets", default=",".join(SPARSITIES), help=f"of {', '.join(SPARSITIES)}")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--predictors", type=Path, help="folder to keep the predictors in; those there are used")
    parser.add_argument("--again", action="store_true", help="run what is in the results already")
    options = parser.parse_args()
    torch.set_num_threads(1)
    path = options.out or (None if options.quick else common.RESULTS / f"{NAME}.json")
    names = ["lenet_300_100"] if options.quick else options.nets.split(",")
    seeds = [0] if options.quick else [int(s) for s in options.seeds.split(",")]
    given = options.predictors
    with tempfile.TemporaryDirectory() if given is None else nullcontext(given) as place:
        folder = Path(place)
        folder.mkdir(parents=True, exist_ok=True)
        for seed in seeds if not options.quick else ():  # all predictors before any transfer
            for name in names:
                learn(name, seed, False, folder)
        for name in names:
            for seed in seeds:
                one(name, seed, options, path, folder)
            if path:
                found = [r for r in common.rows(path) if r["what"].startswith(f"{name} seed ")]
                common.save(path, f"python benchmarks/{NAME}.py", name, summary(name, found), 0.0)
                common.show(summary(name, found))


def one(name: str, seed: int, options: Any, path: Path | None, folder: Path) -> None:
    """One part of the run."""
    part, started = f"{name} seed {seed}", time.perf_counter()
    if path and path.is_file() and part in json.loads(path.read_text())["parts"] and not options.again:
        print(f"{part}: done before", file=sys.stderr)
        return
    rows = rows_of(name, part, seed, options.quick, folder)
    common.show(rows)
    if path:
        common.save(path, f"python benchmarks/{NAME}.py", part, rows, time.perf_counter() - started)


if __name__ == "__main__":
    main()
