"""Do scales of AWQ and Hadamard rotations, folded into a network, pay before rounding? Under ours, and to nearest.

Both change the weights and nothing of what the network computes; what can't be folded exactly stays as it is
(`folded` counts the layers that were). The weights of all linear layers are then rounded, by `Uniform` from the
network's own statistics ("ours") or to nearest on a min-max grid; `w8a8` and `w4a8` round the inputs of those layers
too, simulated: one affine range for a tensor, the least and the greatest value that calibration saw.

    python benchmarks/refold.py [--quick] [--tasks character_gpt,minilm] [--settings 4@0,3@0,4@32,w8a8,w4a8]
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import common
import torch
import weight_only_published as published
from torch import Tensor, nn
from weight_only import Setting, _loss, _Positional, lessen, without_data
from weight_only_tasks import TASKS, Figures, Task

from lessen import AWQ, Layer, LessenError
from lessen.models.exact import Refolded
from lessen.models.rescale import rescaled
from lessen.models.rotate import rotated
from lessen.statistics import collect

NAME, SETTINGS, QUICK = "refold", "4@0,3@0,4@32,w8a8,w4a8", "3@0"


class _Plain(nn.Module):
    """Without what is not a tensor among its outputs."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *values: Tensor) -> Tensor:
        made = self.network(*values)
        return made if isinstance(made, Tensor) else made.last_hidden_state


def _opened(task: Task) -> tuple[_Plain, tuple[str, ...]]:
    keys = tuple(task.batches[0])
    return _Plain(_Positional(task.model, keys)), keys


def _refolded(task: Task, change: Callable[[nn.Module, tuple[Tensor, ...]], Refolded]) -> tuple[Task, int]:
    """The task with another network, and how many layers or dimensions were folded."""
    network, keys = _opened(task)
    try:
        made = change(network, tuple(task.batches[0][k][:2] for k in keys))
    except LessenError:
        return task, 0
    return replace(task, model=made.module.network.network), len(made.folded)


def scaled(task: Task, s: Setting) -> tuple[Task, int]:
    """AWQ."""
    network, keys = _opened(task)
    linear = {f"network.network.{p}.weight": m for p, m in task.linears().items()}
    layers = {n: Layer(n, "linear", m.weight.detach()) for n, m in linear.items()}
    batches = [tuple(b[k] for k in keys) for b in task.batches]
    known = collect(network, tuple(layers.values()), batches, fisher=0)
    how = AWQ(s.bits, s.group or "channel")

    def scale(names: Sequence[str]) -> Tensor | None:
        return how.scale([layers[n] for n in names], known[names[0]]) if set(names) <= set(layers) else None

    return _refolded(task, lambda module, inputs: rescaled(module, inputs, scale))


FOLDS: dict[str, Callable[[Task, Setting], tuple[Task, int]]] = {
    "as it is": lambda t, s: (t, 0),
    "AWQ": scaled,
    "rotated": lambda t, s: _refolded(t, rotated),
}
ROUNDED: dict[str, Callable[[Task, Setting], nn.Module]] = {
    "ours": lambda t, s: lessen(t, s, False)[0],
    "to nearest": lambda t, s: without_data(t, lambda W: published.nearest(W, s.bits, s.group)),
}


@torch.no_grad()
def with_inputs(task: Task, network: nn.Module, bits: int = 8) -> nn.Module:
    """A rounded network whose linear layers read inputs of so many bits."""
    made, ranges = copy.deepcopy(network), {}
    linear = {n: made.get_submodule(n) for n in task.linears()}

    def see(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Tensor]) -> None:
            low, high = ranges.get(name, (0.0, 0.0))
            ranges[name] = (min(low, float(args[0].min())), max(high, float(args[0].max())))

        return hook

    def rounds(name: str) -> Callable[..., tuple[Tensor]]:
        low, high = ranges[name]
        step, top = (high - low) / (2**bits - 1), 2**bits - 1
        zero = round(-low / step)
        return lambda _, args: ((((args[0] / step).round() + zero).clamp(0, top) - zero) * step,)

    watching = [m.register_forward_pre_hook(see(n)) for n, m in linear.items()]
    for batch in task.batches:
        made(**batch)
    for handle in watching:
        handle.remove()
    for name, module in linear.items():
        module.register_forward_pre_hook(rounds(name))
    return made


def rows_of(what: str, task: Task, base: Figures, text: str, ways: Sequence[str]) -> list[common.Row]:
    """Every fold and every rounding at one setting."""
    integers = text.startswith("w")
    s = Setting(int(text[1]), None) if integers else Setting.of(text)
    name = f"{what}, {text.upper()}" if integers else s.name(what)
    made = []
    for fold, refolded in FOLDS.items():
        started = time.process_time()
        other, folded = refolded(task, s)
        seconds = time.process_time() - started
        for way in ways:
            network = ROUNDED[way](other, s)
            with torch.no_grad():
                figures = task.judge(with_inputs(other, network) if integers else network)
            who = f"lessen/{fold}, {way}"
            rows = [_loss(who, name, k, base[k][0], v, unit) for k, (v, unit) in figures.items()]
            rows.append(common.row(who, name, "folded", folded, "layers or dimensions"))
            rows.append(common.row(who, name, "fold_seconds", seconds, "s of processor time"))
            common.show(rows)
            made += rows
    return made


def main() -> None:
    """Run, print, write."""
    parser = common.parser(__doc__ or "", f"character_gpt at {QUICK}, rounded to nearest")
    parser.add_argument("--tasks", default="character_gpt,minilm", help=f"of {', '.join(TASKS)}")
    parser.add_argument("--settings", default=SETTINGS, help=f"bits@group, or w and a; by default {SETTINGS}")
    options = parser.parse_args()
    for what in ["character_gpt"] if options.quick else options.tasks.split(","):
        task = TASKS[what]()
        with torch.no_grad():
            base = task.judge(task.model)
        for text in (QUICK if options.quick else options.settings).split(","):
            started = time.perf_counter()
            rows = rows_of(what, task, base, text, ["to nearest"] if options.quick else list(ROUNDED))
            common.keep(options, NAME, rows[0]["what"], rows, time.perf_counter() - started, ("transformers",))


if __name__ == "__main__":
    main()
