"""Who prunes in structured_recovery: lessen's criteria, and Torch-Pruning's importances."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from structured_recovery_tasks import Task, loss_of
from structured_recovery_tune import calibration
from structured_torch_pruning import _heads
from torch import Tensor, nn

from lessen import Channels
from lessen.bench import Bench
from lessen.errors import LessenError
from lessen.job import Job, Options, open_job
from lessen.models.depth import without_blocks
from lessen.models.groups import Grouping, find_groups
from lessen.models.surgery import shrink
from lessen.prune.depth import Depth
from lessen.report import Progress
from lessen.search.compensate import compensate
from lessen.search.importance import importance_of
from lessen.search.prepare import prepared
from lessen.search.shallow import PREFIX, shallower
from lessen.search.widths import costs_of

SAMPLES = 256  # of the training part, for importance


class Shrinkable:
    """One tool with one setting: the network at any strength from 0 to 1."""

    def __call__(self, strength: float) -> nn.Module:
        raise NotImplementedError


@dataclass(eq=False)
class Ours(Shrinkable):
    """`Channels` over the groups found in the network.

    Args:
        criterion: of `Channels`.
        folded: prune the network with batch norms folded and readers refitted; else the network as it was trained.
        stream: also narrow what the residual connections carry.
        depth: residual blocks to remove first.
    """

    task: Task
    criterion: str
    folded: bool = True
    stream: bool = True
    depth: int = 0

    def __post_init__(self) -> None:
        self.job, self.bench = _bench(self.task)
        if self.depth:
            shallow = shallower(self.job, self.bench, Depth(self.depth), Progress())
            assert shallow is not None
            self.bench = shallow
        self.grouping = find_groups(self.bench.module, self.job.model.inputs)
        able = [g for g in self.grouping.groups if g.size > 1 and (self.stream or not _residual(g))]
        self.importance = importance_of(self.job, self.bench, able, self.criterion)
        self.groups = [g for g in able if g.name in self.importance]
        self.costs = costs_of(self.bench, self.groups, 0.0)

    def __call__(self, strength: float) -> nn.Module:
        units: Mapping[str, tuple[int, ...]] = {}
        if strength > 0:
            technique = Channels(strength, self.criterion, multiple=self.task.multiple)
            units, _ = technique.rank(self.groups, self.importance, self.costs)
        if self.folded:
            return self._cut(copy.deepcopy(self.bench.module), self.grouping, units, True)
        blocks = [n.removeprefix(PREFIX) for n in self.bench.channels if n.startswith(PREFIX)]
        plain = without_blocks(self.job.model.module, blocks, self.job.model.inputs).model
        return self._cut(plain, find_groups(plain, self.job.model.inputs), units, False)

    def _cut(
        self, module: nn.Module, grouping: Grouping, units: Mapping[str, tuple[int, ...]], refit: bool
    ) -> nn.Module:
        if refit:
            compensate(module, self.bench, {g.name: g for g in grouping.groups}, units)
        return shrink(module, {k: list(v) for k, v in units.items()}, self.job.model.inputs, grouping)


def _residual(group: Any) -> bool:
    """Whether several layers write to these units."""
    return (
        sum(
            m.dim == 0 and m.path.endswith("weight")
            for m in group.members
            if m.path.rpartition(".")[0] in group.producers
        )
        > 2
    )


_BENCHES: dict[int, tuple[Job, Bench]] = {}


def _bench(task: Task) -> tuple[Job, Bench]:
    if id(task) not in _BENCHES:
        samples = calibration(task.train, SAMPLES)
        inputs = samples[0] if len(samples[0]) > 1 else samples[0][0]
        held = dict.fromkeys(("calibration", "validation", "test"), (inputs, samples[1]))
        job = open_job(task.network, held, "1%", "onnxruntime", "channels", Options(task.metric))
        _BENCHES[id(task)] = (job, prepared(job, Progress()))
    return _BENCHES[id(task)]


@dataclass(eq=False)
class Theirs(Shrinkable):
    """Torch-Pruning, as its examples use it.

    Args:
        kind: GroupMagnitude (GroupNorm), GroupTaylor or GroupHessian.
        everywhere: one ratio for all channels, the residual stream's too; False: only inside the blocks.
        together: global ranking over the groups instead of the same ratio in each.
    """

    task: Task
    kind: str
    everywhere: bool = True
    together: bool = False

    def __post_init__(self) -> None:
        self.gradients = _gradients(self.task, self.kind)

    def __call__(self, strength: float) -> nn.Module:
        import torch_pruning as tp

        network = copy.deepcopy(self.task.network).requires_grad_(True)
        inputs = tuple(x[:2] for x in self.task.train[0])
        importance = getattr(tp.importance, f"Group{self.kind}Importance")()
        for name, p in network.named_parameters():
            p.grad = self.gradients.get(name)
        heads = _heads(network)
        pruner = tp.pruner.BasePruner(
            network, inputs, importance, pruning_ratio=strength, global_pruning=self.together,
            ignored_layers=self._ignored(network), round_to=self.task.multiple if self.task.multiple > 1 else None,
            num_heads=heads, prune_num_heads=bool(heads), prune_head_dims=False, head_pruning_ratio=strength,
            forward_fn=lambda m, x: m(*x), max_pruning_ratio=0.9,
        )  # fmt: skip
        pruner.step()
        _repair(network, pruner.num_heads)
        return network.eval().requires_grad_(False)

    def _ignored(self, network: nn.Module) -> list[nn.Module]:
        """The output layer; with `everywhere` off, what writes to the residual stream too."""
        ignored = [m for n, m in network.named_modules() if n in ("head",)]
        ends = ("stem.0", "conv2", "shortcut.0", "output.dense")
        if not self.everywhere:
            ignored += [m for n, m in network.named_modules() if n.endswith(ends) or isinstance(m, nn.Embedding)]
        return ignored


def _gradients(task: Task, kind: str) -> dict[str, Tensor]:
    """What its Taylor importance (mean gradient) and its Hessian importance (mean squared gradient, sample by sample,
    as its `accumulate_grad` does) find in `.grad`, on the same samples as ours."""
    if kind == "Magnitude":
        return {}
    network, squared = copy.deepcopy(task.network).requires_grad_(True), kind == "Hessian"
    size, count = (1, 256) if squared else (64, SAMPLES)
    inputs, labels = calibration(task.train, min(count, len(task.train[1])))
    total: dict[str, Tensor] = {}
    for i in range(0, len(labels), size):
        network.zero_grad()
        loss_of(network(*(x[i : i + size] for x in inputs)), labels[i : i + size]).backward()
        for name, p in network.named_parameters():
            if p.grad is not None:
                g = p.grad.square() if squared else p.grad.clone()
                total[name] = g if name not in total else total[name] + g
    return {name: g * size / len(labels) for name, g in total.items()}


def _repair(network: nn.Module, heads: Mapping[nn.Module, int]) -> None:
    """What its examples do to attention modules afterwards."""
    for module in network.modules():
        inside = [m for m in module.children() if m in heads]
        if inside:
            width = inside[0].out_features
            for name, value in (("num_attention_heads", heads[inside[0]]), ("all_head_size", width),
                                ("attention_head_size", width // max(heads[inside[0]], 1))):  # fmt: skip
                if isinstance(getattr(module, name, None), int):
                    setattr(module, name, value)


def settings(task: Task, name: str) -> dict[str, dict[str, Callable[[], Shrinkable]]]:
    """who -> setting -> the tool."""
    return {"lessen": _our_settings(task, name), "torch-pruning": _their_settings(task, name)}


def _our_settings(task: Task, name: str) -> dict[str, Callable[[], Shrinkable]]:
    made: dict[str, Callable[[], Shrinkable]] = {"second_order": lambda: Ours(task, "second_order")}
    if name == "resnet":
        made["second_order/norms"] = lambda: Ours(task, "second_order", False)
        for depth in (2, 3):
            made[f"depth {depth}, second_order/inside"] = lambda d=depth: Ours(task, "second_order", True, False, d)
            made[f"depth {depth}, second_order/norms"] = lambda d=depth: Ours(task, "second_order", False, True, d)
        return made
    for depth in (0, 1, 2, 3):
        made[f"depth {depth}, second_order/inside"] = lambda d=depth: Ours(task, "second_order", stream=False, depth=d)
    made["depth 2, second_order"] = lambda: Ours(task, "second_order", depth=2)
    return made


def _their_settings(task: Task, name: str) -> dict[str, Callable[[], Shrinkable]]:
    made: dict[str, Callable[[], Shrinkable]] = {}
    for kind in ("Magnitude", "Taylor", "Hessian"):
        made[kind] = lambda k=kind: Theirs(task, k)
        if name == "resnet":  # inside the blocks alone there is no factor of two
            made[f"{kind}/global"] = lambda k=kind: Theirs(task, k, together=True)
        else:
            made[f"{kind}/inside"] = lambda k=kind: Theirs(task, k, everywhere=False)
    return made


def solved(make: Shrinkable, speed: Callable[[nn.Module], float], goal: float) -> tuple[nn.Module, float]:
    """The weakest pruning that is `goal` times as fast, (network, speed): strength in tenths, then halved three times.

    Where no strength is fast enough, the fastest.
    """
    best: tuple[nn.Module, float] | None = None
    for strength in (n / 10 for n in range(10)):
        try:
            tried = _timed(make, strength, speed)
        except LessenError:  # these groups can't give more
            break
        if best is None or tried[1] > best[1]:
            best = tried
        if tried[1] >= goal:
            return _weakest(make, strength, speed, tried, goal)
    assert best is not None
    return best


def _weakest(
    make: Shrinkable, high: float, speed: Callable[[nn.Module], float], best: tuple[nn.Module, float], goal: float
) -> tuple[nn.Module, float]:
    low = max(0.0, high - 0.1)
    for _ in range(3 if high > 0 else 0):
        middle = (low + high) / 2
        tried = _timed(make, middle, speed)
        if tried[1] >= goal:
            best, high = tried, middle
        else:
            low = middle
    return best


def _timed(make: Shrinkable, strength: float, speed: Callable[[nn.Module], float]) -> tuple[nn.Module, float]:
    network = make(strength)
    return network, speed(network)


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())
