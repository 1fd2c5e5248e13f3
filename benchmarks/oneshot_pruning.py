"""What is left of a network after one-shot pruning, without any training?

On real networks, half of the weights and 2 of every 4 go: by magnitude, by Wanda's criterion, by second order, and by
SparseGPT as published on the very same layers and second moments. Embeddings are left alone, and so are layers whose
columns 4 does not divide where the pattern is 2:4. `metric` is the task's score; ours come with the correction of
biases that lessen always does, SparseGPT without (as published) and with.

`layer_error_ratio` is tr(E H ET) of ours over SparseGPT's, layer by layer: the geometric mean, from the lowest to the
highest layer; `layer_error_ratio_held_out` the same under second moments of other samples. `seconds` is the
processor time for all layers of the network, the methods by turns on one thread.

    python benchmarks/oneshot_pruning.py [--quick] [--tasks minilm,lenet_5]
"""

from __future__ import annotations

import copy
import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import common
import torch
from oneshot_published import sparsegpt
from oneshot_tasks import TASKS, Task
from torch import Tensor, nn

from lessen.models import Layer, fold_batchnorm, trace
from lessen.models.put import put_matrix
from lessen.prune import NM, Magnitude, OptimalBrain, Wanda
from lessen.statistics import Statistics, collect

NAME, QUICK = "oneshot_pruning", "letters_mlp"
PUBLISHED, CORRECTED = "SparseGPT (as published)", "SparseGPT + bias correction"
REPEATS = 3  # of which the fastest counts
LARGE = 2_000_000  # parameters: larger networks take one repeat, and no search for permutations
Way = Callable[[Layer, Statistics], Any]  # -> what the layer's matrix becomes: a tensor, or a coding of one
Matrices = dict[str, Tensor]


def ours(technique: Any) -> Way:
    """A technique of ours."""
    return lambda layer, known: technique.encode(layer, known)


def blind(technique: Any) -> Way:
    """A technique that is told nothing of the data: magnitude decides."""
    return lambda layer, known: technique.encode(layer, Statistics())


def published(pattern: tuple[int, int] | None) -> Way:
    """SparseGPT, each group of a convolution by itself."""

    def way(layer: Layer, known: Statistics) -> Tensor:
        assert known.full is not None
        groups = zip(layer.matrix.chunk(len(known.full)), known.full, strict=True)
        return torch.cat([sparsegpt(w, h, 0.5, pattern) for w, h in groups])

    return way


WAYS: dict[str, dict[str, Way]] = {
    "50 %": {
        "lessen": ours(OptimalBrain(0.5)), PUBLISHED: published(None), "lessen/wanda": ours(Wanda(0.5)),
        "lessen/wanda by output": ours(Wanda(0.5, "output")), "lessen/magnitude": ours(Magnitude(0.5)),
    },
    "2:4": {
        "lessen": ours(NM(2, 4)), PUBLISHED: published((2, 4)), "lessen/wanda": ours(NM(2, 4, False)),
        "lessen/magnitude": blind(NM(2, 4, False)), "lessen/permuted": ours(NM(2, 4, permute=True)),
    },
}  # fmt: skip


@dataclass(eq=False)
class Lab:
    """A task with what all methods share: the network, its layers, the second moments of two sets of samples."""

    task: Task
    module: nn.Module
    layers: tuple[Layer, ...]
    known: Mapping[str, Statistics]
    held_out: Mapping[str, Statistics]

    @classmethod
    def of(cls, task: Task) -> Lab:
        module, _ = fold_batchnorm(task.network, task.calibration[0])
        layers = trace(module, task.calibration[0]).layers
        held_out = collect(module, layers, task.held_out, fisher=0)
        return cls(task, module, layers, collect(module, layers, task.calibration), held_out)

    def prunable(self, pattern: str) -> list[Layer]:
        """Layers that fit the pattern and whose second moment is known in full."""
        fits = [x for x in self.layers if x.kind != "embedding" and self.known[x.name].full is not None]
        return [x for x in fits if pattern != "2:4" or x.shape[1] % 4 == 0]

    def score(self, made: Matrices, corrected: bool) -> float:
        """Of the network with these weights."""
        module = copy.deepcopy(self.module)
        for x in self.layers:
            if x.name in made:
                put_matrix(module, x, made[x.name], self.known[x.name].mean if corrected else None)
        return self.task.score(module)


def run(name: str, lab: Lab, pattern: str) -> list[common.Row]:
    """All rows of one task and pattern."""
    what, layers = f"{name} {pattern}", lab.prunable(pattern)
    made, seconds = timed(lab, layers, WAYS[pattern])
    share = sum(x.weight.numel() for x in layers) / sum(p.numel() for p in lab.module.parameters())
    note = f"{lab.task.says}; {len(layers)} layers with {100 * share:.0f} % of the parameters"
    scores = {"original": lab.task.score(lab.module)}
    scores |= {who: lab.score(m, who != PUBLISHED) for who, m in made.items()}
    scores[CORRECTED] = lab.score(made[PUBLISHED], True)
    rows = [common.row(who, what, "metric", v, "share", n=lab.task.n, note=note) for who, v in scores.items()]
    rows += [common.row(who, what, "seconds", s, "s", n=len(layers)) for who, s in seconds.items()]
    for label, known in (("", lab.known), ("_held_out", lab.held_out)):
        ratios = ratio(layers, known, made["lessen"], made[PUBLISHED])
        rows.append(common.row("lessen", what, f"layer_error_ratio{label}", statistics.geometric_mean(ratios), "",
                               n=len(ratios), low=min(ratios), high=max(ratios)))  # fmt: skip
    rows.append(common.row("lessen", what, "seconds_ratio", seconds["lessen"] / seconds[PUBLISHED], "", n=len(layers)))
    return rows


def timed(lab: Lab, layers: list[Layer], ways: Mapping[str, Way]) -> tuple[dict[str, Matrices], dict[str, float]]:
    """Who -> layer -> its weights, and the processor time that all layers took; the methods take turns."""
    large = sum(x.weight.numel() for x in layers) > LARGE
    ways = {who: way for who, way in ways.items() if who != "lessen/permuted" or not large}
    made: dict[str, Matrices] = {who: {} for who in ways}
    seconds = dict.fromkeys(ways, 0.0)
    for layer in layers:
        for who, way in ways.items():
            spent = []
            for _ in range(1 if large or who == "lessen/permuted" else REPEATS):
                known = fresh(lab.known[layer.name])
                started = time.process_time()
                result = way(layer, known)
                spent.append(time.process_time() - started)
            seconds[who] += min(spent)
            made[who][layer.name] = result if isinstance(result, Tensor) else result.decode()
    return made, seconds


def fresh(known: Statistics) -> Statistics:
    """The same statistics as if never seen: what was factorised once would not be again."""
    return dataclasses.replace(known, H=None if known.H is None else known.H.clone())


def ratio(layers: list[Layer], known: Mapping[str, Statistics], mine: Matrices, theirs: Matrices) -> list[float]:
    """tr(E H ET) of mine over theirs, for each layer."""
    found = []
    for x in layers:
        plain = Statistics(known[x.name].H)  # every output counts alike, as in the paper
        found.append(plain.harm(mine[x.name] - x.matrix) / max(plain.harm(theirs[x.name] - x.matrix), 1e-30))
    return found


def main() -> None:
    """Run, print, write."""
    parser = common.parser(__doc__ or "", f"{QUICK} alone")
    parser.add_argument("--tasks", help=f"of {', '.join(TASKS)}; by default all")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in (options.tasks or (QUICK if options.quick else ",".join(TASKS))).split(","):
        lab = Lab.of(TASKS[name]())
        for pattern in WAYS:
            started = time.perf_counter()
            rows = run(name, lab, pattern)
            common.show(rows)
            seconds = time.perf_counter() - started
            common.keep(options, NAME, f"{name} {pattern}", rows, seconds)


if __name__ == "__main__":
    main()
