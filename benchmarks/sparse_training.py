"""Sparse training: how much accuracy does each method keep at 90, 95 and 98 % zeros, with the same epochs?

LeNet-300-100 (266,610 parameters) on Fashion-MNIST. A network is trained whole (3 epochs) with each of three seeds, and
is then made sparse by every method: the same 3 epochs in all, the same optimizer and learning rate, the whole network
as teacher, on 20,000 of the training images. The learning rate (one for all methods) and the methods' constants were
chosen at 95 % on training images that those runs did not train on. The accuracy is that of the 10,000 test images, the
mean over the seeds; `low` and `high` are the worst and the best seed. `one_shot` is magnitude pruning and fine-tuning,
`IMP` three rounds of one epoch each with learning-rate rewinding.

    python benchmarks/sparse_training.py [--quick] [--methods RigL,GMP] [--sparsities 90,95,98]
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import cache
from statistics import fmean

import common
import torch
from torch import Tensor, nn

import zoo
from lessen import GMP, IMP, L0, L1, STR, Movement, RigL
from lessen.data import Batch, Part
from lessen.models import trace
from lessen.train import Distillation, FineTune, Lesson, Training
from lessen.train.rule import Fixed
from lessen.train.sparse import trained_sparse
from zoo import nets
from zoo.training import accuracy, initialise

NAME, SEEDS, EPOCHS, IMAGES = "sparse_training", (0, 1, 2), 3, 20_000
SAME = {"lr": 3e-3, "batch_size": 128}
SPARSITIES = {"90": 0.9, "95": 0.95, "98": 0.98}
Method = Callable[[float, int], Training]
METHODS: dict[str, Method] = {
    "RigL": lambda s, epochs: RigL(s, epochs, **SAME),
    "STR": lambda s, epochs: STR(s, epochs, **SAME),
    "GMP": lambda s, epochs: GMP(s, epochs, **SAME),
    "L0": lambda s, epochs: L0(s, epochs, **SAME),
    "L1": lambda s, epochs: L1(s, epochs, **SAME),
    "movement": lambda s, epochs: Movement(s, epochs, **SAME),
    "one_shot": lambda s, epochs: IMP(s, epochs, rounds=1, **SAME),
    "IMP": lambda s, epochs: IMP(s, 1, rounds=epochs, **SAME),
}


@cache
def lessons(count: int) -> Part:
    """The first `count` of the shuffled training images."""
    x, y, _, _ = zoo.fashion_mnist()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:count]
    return Part("training", (Batch((x[order],), y[order]),))


@cache
def original(seed: int, count: int, epochs: int) -> nn.Module:
    """The network trained whole."""
    net = initialise(nets.LeNet300100(), seed).eval()
    taught = Lesson(net, trace(net, _two()).layers, lessons(count), distillation=Distillation(0.0), seed=seed)
    whole = {x.name: torch.ones_like(x.weight) for x in taught.layers}
    trained_sparse(net, taught, FineTune(epochs, SAME["lr"], int(SAME["batch_size"])), Fixed(whole))
    return net.requires_grad_(False)


def _two() -> tuple[Tensor]:
    return (zoo.fashion_mnist()[0][:2],)


def score(net: nn.Module) -> float:
    """Percent of the test images that are right."""
    _, _, x, y = zoo.fashion_mnist()
    return 100 * accuracy(net, x, y)


def rows_of(method: str, sparsity: str, seeds: tuple[int, ...], count: int, epochs: int) -> list[common.Row]:
    """One method at one sparsity, over the seeds."""
    scores, drops, reached, started = [], [], [], time.process_time()
    for seed in seeds:
        teacher = original(seed, count, epochs)
        student = copy.deepcopy(teacher).requires_grad_(True)
        made = METHODS[method](SPARSITIES[sparsity], epochs)
        told = made.fit(student, Lesson(teacher, trace(student, _two()).layers, lessons(count), seed=seed))
        scores.append(score(student))
        drops.append(score(teacher) - scores[-1])
        reached.append(told.sparsity)
    what, taken = f"{sparsity} % {method}", (time.process_time() - started) / len(seeds)
    spread = {"n": len(seeds), "low": min(scores), "high": max(scores)}
    lost = {"n": len(seeds), "low": min(drops), "high": max(drops)}
    return [
        common.row("lessen", what, "accuracy", fmean(scores), "%", **spread, note=f"sparsity {fmean(reached):.6f}"),
        common.row("lessen", what, "loss_points", fmean(drops), "points", **lost),
        common.row("lessen", what, "cpu_seconds", taken, "s"),
    ]


def dense(seeds: tuple[int, ...], count: int, epochs: int) -> list[common.Row]:
    """The networks that all others start from."""
    scores = [score(original(seed, count, epochs)) for seed in seeds]
    return [
        common.row("lessen", "dense", "accuracy", fmean(scores), "%", n=len(seeds), low=min(scores), high=max(scores))
    ]


def main() -> None:
    """Run, print, write."""
    parser = common.parser(__doc__ or "", "RigL and GMP at 95 %, one seed, 4,000 images, one epoch")
    parser.add_argument("--methods", default=",".join(METHODS), help=f"of {', '.join(METHODS)}")
    parser.add_argument("--sparsities", default=",".join(SPARSITIES), help=f"of {', '.join(SPARSITIES)} percent")
    asked = parser.parse_args()
    methods = ["RigL", "GMP"] if asked.quick else asked.methods.split(",")
    sparsities = ["95"] if asked.quick else asked.sparsities.split(",")
    size = ((0,), 4000, 1) if asked.quick else (SEEDS, IMAGES, EPOCHS)
    parts = {"dense": lambda: dense(*size)} | {
        f"{s} % {m}": lambda m=m, s=s: rows_of(m, s, *size) for s in sparsities for m in methods
    }
    torch.set_num_threads(1)
    for part, run in parts.items():
        started = time.perf_counter()
        rows = run()
        common.show(rows)
        if not asked.quick or asked.out:
            path, command = asked.out or common.RESULTS / f"{NAME}.json", f"python benchmarks/{NAME}.py"
            common.save(path, command, part, rows, time.perf_counter() - started)


if __name__ == "__main__":
    main()
