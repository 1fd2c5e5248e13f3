"""Weights of 4, 3 and 2 bits, everything else in float: how much is lost by lessen, GPTQ, AWQ and HQQ?

Everybody rounds the same linear layers of the same network to the same kind of grid (affine, a step in float16 and a
zero point of as many bits as the weights for each output channel or group of inputs; HQQ's zero points are float16),
from the same calibration samples. `lessen` is `Uniform` carried out layer by layer (`realize_in_turn`), `lessen/alone`
the same without looking at the layers before. GPTQ, AWQ and HQQ are re-derived from their papers
(weight_only_published.py); GPTQModel and AutoAWQ don't take these architectures and are rows without a value.

    python benchmarks/weight_only.py [--quick] [--tasks character_gpt,minilm,whisper_tiny] [--settings 4@32,4@128]

A setting is bits@group, group 0 is a whole output channel; each is a part of its own, those that are in the results
already are left out unless --again is given. Figures with `_against_gptq` are ours minus those of the better GPTQ,
sample by sample: what all share because of the samples is not in their intervals.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import common
import torch
import weight_only_published as published
from torch import Tensor, nn
from weight_only_tasks import TASKS, Figures, Task
from weight_only_walk import Seen, walk

from lessen import Uniform
from lessen.bench import Bench, realize
from lessen.codings import Grid
from lessen.codings.container import Package, to_bytes
from lessen.in_turn import realize_in_turn
from lessen.models import Layer, Trace
from lessen.plan import Treatment
from lessen.statistics import Statistics, collect

NAME, SETTINGS, QUICK = "weight_only", "4@32,4@128,4@0,3@128,2@32", "4@32"


@dataclass(frozen=True)
class HalfSteps(Uniform):
    """`Uniform` with its steps in float16, as the peers hold them."""

    def encode(self, layer: Layer, statistics: Statistics) -> Grid:
        grid = super().encode(layer, statistics)
        return replace(grid, scale=grid.scale.half().float().clamp_min(6e-8))


@dataclass(frozen=True)
class Setting:
    """Bits of a weight, and inputs that share a step (None: all of an output channel)."""

    bits: int
    group: int | None

    @classmethod
    def of(cls, text: str) -> Setting:
        bits, _, group = text.partition("@")
        return cls(int(bits), int(group) or None)

    def name(self, task: str) -> str:
        return f"{task}, {self.bits} bits, " + (f"groups of {self.group}" if self.group else "per channel")


class _Positional(nn.Module):
    """A network of keyword arguments, called with them in order."""

    def __init__(self, network: nn.Module, keys: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.keys = network, keys

    def forward(self, *values: Tensor) -> object:
        return self.network(**dict(zip(self.keys, values, strict=True)))


def lessen(task: Task, s: Setting, in_turn: bool) -> tuple[nn.Module, dict[str, Grid]]:
    """Ours; also the codings."""
    keys = tuple(task.batches[0])
    network = _Positional(task.model, keys)
    batches = [tuple(b[k] for k in keys) for b in task.batches]
    layers = tuple(Layer(f"network.{n}.weight", "linear", m.weight.detach()) for n, m in task.linears().items())
    treatments = {x.name: Treatment(HalfSteps(s.bits, s.group or "channel", symmetric=False)) for x in layers}
    statistics = {} if in_turn else collect(network, layers, batches, fisher=0)
    bench = Bench(network, Trace(layers, (), 1.0, None), statistics)
    made = realize_in_turn(bench, treatments, batches) if in_turn else realize(bench, treatments)
    assert isinstance(made.module, _Positional)
    return made.module.network, {n: c for n, c in made.codings.items() if isinstance(c, Grid)}


@torch.no_grad()
def without_data(task: Task, rounder: Callable[[Tensor], published.Rounded]) -> nn.Module:
    """A copy of the network, every layer rounded by itself."""
    made = copy.deepcopy(task.model)
    for name, module in task.linears().items():
        made.get_submodule(name).weight.copy_(rounder(module.weight).weight)
    return made


def _gptq(s: Setting, act_order: bool) -> Callable[[dict[str, Tensor], Seen], dict[str, Tensor]]:
    return lambda weights, seen: {
        n: published.gptq(W, seen.H, s.bits, s.group, act_order).weight for n, W in weights.items()
    }


def _awq(s: Setting) -> Callable[[dict[str, Tensor], Seen], dict[str, Tensor]]:
    def rounder(weights: dict[str, Tensor], seen: Seen) -> dict[str, Tensor]:
        scale = published.awq_scale(list(weights.values()), seen.H, seen.mean_abs, s.bits, s.group)
        clipped = {n: not n.rpartition(".")[2].startswith(("q", "k")) for n in weights}  # as the authors: not those
        return {n: published.awq(W, seen.H, scale, s.bits, s.group, clipped[n]).weight for n, W in weights.items()}

    return rounder


WAYS: dict[str, Callable[[Task, Setting], nn.Module]] = {
    "lessen": lambda t, s: lessen(t, s, True)[0],
    "lessen/alone": lambda t, s: lessen(t, s, False)[0],
    "GPTQ (published)": lambda t, s: walk(t, _gptq(s, False), True),
    "GPTQ act-order (published)": lambda t, s: walk(t, _gptq(s, True), True),
    "AWQ (published)": lambda t, s: walk(t, _awq(s), False),
    "HQQ (published)": lambda t, s: without_data(t, lambda W: published.hqq(W, s.bits, s.group)),
    "round to nearest": lambda t, s: without_data(t, lambda W: published.nearest(W, s.bits, s.group)),
}
QUICK_WAYS = ("lessen", "GPTQ act-order (published)")
ABSENT = {
    "GPTQModel 7.7.0": "builds without CUDA, but knows decoder language models only: no BERT, no Whisper",
    "AutoAWQ 0.2.9": "knows decoder language models only: no BERT, no Whisper",
}


def rows_of(what: str, task: Task, base: Figures, s: Setting, ways: Sequence[str]) -> list[common.Row]:
    """Everybody at one setting."""
    name, made, judged = s.name(what), [], {}
    for who in ways:
        started = time.process_time()
        network = WAYS[who](task, s)
        seconds = time.process_time() - started
        with torch.no_grad():
            figures = judged[who] = task.judge(network)
        rows = [_loss(who, name, k, base[k][0], v, unit) for k, (v, unit) in figures.items()]
        zero_bits = 16 if who.startswith("HQQ") else s.bits
        note = "codes, float16 steps and zero points packed, the rest in float32: counted, in one way for all"
        rows += [
            common.row(who, name, "file_bytes", file_bytes(task, s, zero_bits), "bytes", note=note),
            common.row(who, name, "seconds", seconds, "s of processor time", note="calibration and rounding"),
        ]
        common.show(rows)
        made += rows
    beside = against_gptq(name, judged)
    common.show(beside)
    made += beside
    made += [common.row(who, name, "loss", None, "", note=why) for who, why in ABSENT.items()]
    return made


def against_gptq(what: str, judged: Mapping[str, Figures]) -> list[common.Row]:
    """Ours minus the better of the two GPTQ (on these very test samples), of all figures that have samples."""
    rivals, made = [w for w in judged if w.startswith("GPTQ")], []
    for who in (w for w in judged if w.startswith("lessen") and rivals):
        for figure, (ours, unit) in judged[who].items():
            if torch.as_tensor(ours).ndim:
                best = min(rivals, key=lambda w: float(torch.as_tensor(judged[w][figure][0]).mean()))
                name, theirs = f"{figure}_against_gptq", judged[best][figure][0]
                made.append(_loss(who, what, name, theirs, ours, unit, note=f"minus {best}; less than 0 is better"))
    return made


def _loss(
    who: str, what: str, figure: str, before: Tensor | float, after: Tensor | float, unit: str, note: str = ""
) -> common.Row:  # fmt: skip
    """The mean difference, with its 95 % interval over samples."""
    more = torch.as_tensor(after).double() - torch.as_tensor(before).double()
    if more.ndim == 0:
        return common.row(who, what, figure, float(more), unit)
    mean, spread = float(more.mean()), 1.96 * float(more.std()) / len(more) ** 0.5
    return common.row(who, what, figure, mean, unit, n=len(more), low=mean - spread, high=mean + spread, note=note)


def file_bytes(task: Task, s: Setting, zero_bits: int) -> int:
    """Bytes of all parameters: the rounded ones packed, the others in float32."""
    coded = [m.weight for m in task.linears().values()]
    packed = sum(w.numel() * published.cost(s.bits, s.group or w.shape[1], zero_bits) for w in coded) / 8
    rest = sum(p.numel() for p in task.model.parameters()) - sum(w.numel() for w in coded)
    return int(packed + 4 * rest)


def entropy_coded(what: str, task: Task, s: Setting) -> list[common.Row]:
    """What our codes take in a `.lessen` file, which has an entropy coder."""
    codings = lessen(task, s, False)[1]
    rest = int(file_bytes(task, s, s.bits) - sum(c.codes.numel() * published.cost(s.bits, s.group or c.shape[1], s.bits)
                                                  for c in codings.values()) / 8)  # fmt: skip
    size = len(to_bytes(Package(codings=dict(codings)))) + rest
    return [common.row("lessen/.lessen", s.name(what), "file_bytes", size, "bytes", note="entropy-coded")]


def main() -> None:
    """Run, print, write."""
    parser = common.parser(__doc__ or "", f"character_gpt at {QUICK}")
    parser.add_argument("--tasks", default=",".join(TASKS), help=f"of {', '.join(TASKS)}")
    parser.add_argument("--settings", default=SETTINGS, help=f"bits@group; by default {SETTINGS}")
    parser.add_argument("--ways", default=",".join(WAYS), help="of the names in the rows; by default all")
    parser.add_argument("--again", action="store_true", help="also those that are in the results")
    options = parser.parse_args()
    chosen = [Setting.of(t) for t in (QUICK if options.quick else options.settings).split(",")]
    path = options.out or common.RESULTS / f"{NAME}.json"
    done = set() if options.again or options.quick else _done(path)
    for what in ["character_gpt"] if options.quick else options.tasks.split(","):
        missing = [s for s in chosen if s.name(what) not in done]
        if not missing:
            continue
        task = TASKS[what]()
        with torch.no_grad():
            base = task.judge(task.model)
        for s in missing:
            started = time.perf_counter()
            rows = rows_of(what, task, base, s, QUICK_WAYS if options.quick else options.ways.split(","))
            rows += entropy_coded(what, task, s)
            seconds = time.perf_counter() - started
            common.keep(options, NAME, s.name(what), rows, seconds, ("transformers",))


def _done(path: Path) -> set[str]:
    return set(json.loads(path.read_text())["parts"]) if path.is_file() else set()


if __name__ == "__main__":
    main()
