"""Learned pruning of structures: do gates that learn which channels to keep beat a criterion that chooses them at once?

ResNet-8 (78 k parameters) on Fashion-MNIST, to half and to a quarter of its multiply-adds. `lessen/StructuredL0` and
`lessen/StructuredMovement` train gates for two fifths of the steps and the narrower network for the rest;
`lessen/Channels ...` remove the units at once by the criterion named, refit what reads them, and train the narrower
network for all of the steps. The same 625 steps, samples, batches, optimizer, learning rate, schedule and teacher for
all; the gates' constants were chosen at 50 % on training images that no run trained on. Accuracy on the 10,000 test
images, the mean of three seeds (of the batches' order and of the gates' noise); `low` and `high` are the worst and the
best seed.

    python benchmarks/learned_structures.py [--quick] [--methods StructuredL0] [--sparsities 50,75]
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import cache
from statistics import fmean

import common
import torch
from sparse_training import lessons
from torch import Tensor, nn

import zoo
from lessen import StructuredL0, StructuredMovement
from lessen.job import Job, open_job
from lessen.models import trace
from lessen.models.groups import find_groups
from lessen.models.surgery import shrink
from lessen.prune.channels import Channels
from lessen.report import Progress
from lessen.search.compensate import compensate
from lessen.search.importance import importance_of
from lessen.search.prepare import prepared
from lessen.search.widths import costs_of
from lessen.train import FineTune, Lesson, copied
from lessen.train.rule import Fixed
from lessen.train.sparse import trained_sparse

NAME, SEEDS, EPOCHS, IMAGES, BATCH, RATE = "learned_structures", (0, 1, 2), 5, 8000, 64, 3e-3
SPARSITIES = {"50": 0.5, "75": 0.75}
LEARNED = {"StructuredL0": StructuredL0, "StructuredMovement": StructuredMovement}
CRITERIA = {"Channels second_order": "second_order", "Channels taylor": "taylor"}


@cache
def whole() -> nn.Module:
    """The trained network."""
    return zoo.resnet_8().requires_grad_(False)


def two() -> tuple[Tensor]:
    return (zoo.fashion_mnist()[0][:2],)


def macs(net: nn.Module) -> int:
    return trace(net, two()).macs


def lesson(net: nn.Module, seed: int, count: int) -> Lesson:
    return Lesson(whole(), trace(net, two()).layers, lessons(count), seed=seed)


def learned(method: str, sparsity: float, seed: int, count: int, epochs: int) -> nn.Module:
    """By gates."""
    student = copied(whole())
    made = LEARNED[method](sparsity, epochs, RATE, BATCH).fit(student, lesson(student, seed, count))
    assert made.module is not None
    return made.module


def at_once(method: str, sparsity: float, seed: int, count: int, epochs: int) -> nn.Module:
    """By a criterion, then trained."""
    student = copied(narrowed(method, sparsity, count))
    trained_sparse(student, lesson(student, seed, count), FineTune(epochs, RATE, BATCH), Fixed({}))
    return student


@cache
def narrowed(method: str, sparsity: float, count: int) -> nn.Module:
    """The least fraction of `Channels` that takes so many multiply-adds away; readers are refitted."""
    job = _job(count)
    bench = prepared(job, Progress())
    grouping = find_groups(bench.module, job.model.inputs)
    importance = importance_of(job, bench, grouping.groups, CRITERIA[method])
    groups = [g for g in grouping.groups if g.name in importance]
    costs = costs_of(bench, groups, 0.0)
    low, high, best = 0.0, 0.99, None
    for _ in range(9):
        middle = (low + high) / 2
        units, _ = Channels(middle, CRITERIA[method], least=0.01, multiple=1).rank(groups, importance, costs)
        module = copy.deepcopy(bench.module)
        compensate(module, bench, {g.name: g for g in groups}, units)
        made = shrink(module, {k: list(v) for k, v in units.items()}, job.model.inputs, grouping)
        if macs(made) <= (1 - sparsity) * macs(whole()):
            best, high = made, middle
        else:
            low = middle
    assert best is not None
    return best


@cache
def _job(count: int) -> Job:
    some = lessons(count).head(1024).blocks[0]
    held = dict.fromkeys(("calibration", "validation", "test"), (some.inputs[0], some.labels))
    return open_job(whole(), held, "1%", "onnxruntime", "channels")


METHODS: dict[str, Callable[..., nn.Module]] = {**dict.fromkeys(LEARNED, learned), **dict.fromkeys(CRITERIA, at_once)}


def rows_of(method: str, sparsity: str, seeds: tuple[int, ...], count: int, epochs: int) -> list[common.Row]:
    """One method at one sparsity, over the seeds."""
    make, asked, started = METHODS[method], SPARSITIES[sparsity], time.process_time()
    x, y = zoo.fashion_mnist()[2:]
    nets = [make(method, asked, seed, count, epochs) for seed in seeds]
    taken = (time.process_time() - started) / len(seeds)
    scores = [100 * zoo.accuracy(net, x, y) for net in nets]
    left = [100 * macs(net) / macs(whole()) for net in nets]
    size = fmean(sum(p.numel() for p in net.parameters()) for net in nets)
    who, what = f"lessen/{method}", f"{sparsity} % {method}"
    spread = {"n": len(seeds), "low": min(scores), "high": max(scores), "steps": epochs * -(-count // BATCH)}
    return [
        common.row(who, what, "accuracy", fmean(scores), "%", **spread),
        common.row(who, what, "macs_left", fmean(left), "%", low=min(left), high=max(left)),
        common.row(who, what, "parameters", size, "values"),
        common.row(who, what, "cpu_seconds", taken, "s"),
    ]


def main() -> None:
    """Run, print, write."""
    parser = common.parser(__doc__ or "", "StructuredL0 and second order at 50 %, one seed, 640 images, two epochs")
    parser.add_argument("--methods", default=",".join(METHODS), help=f"of {', '.join(METHODS)}")
    parser.add_argument("--sparsities", default=",".join(SPARSITIES), help=f"of {', '.join(SPARSITIES)} percent")
    asked = parser.parse_args()
    methods = ["StructuredL0", "Channels second_order"] if asked.quick else asked.methods.split(",")
    sparsities = ["50"] if asked.quick else asked.sparsities.split(",")
    size = ((0,), 640, 2) if asked.quick else (SEEDS, IMAGES, EPOCHS)
    torch.set_num_threads(1)
    for sparsity in sparsities:
        for method in methods:
            started = time.perf_counter()
            rows = rows_of(method, sparsity, *size)
            common.show(rows)
            common.keep(asked, NAME, rows[0]["what"], rows, time.perf_counter() - started)


if __name__ == "__main__":
    main()
