"""The importance of every unit of every group, by the criterion that `Channels` names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..bench import Bench
from ..errors import LessenError
from ..job import Job
from ..models import Layer
from ..models.groups import Group, Member, find_groups
from ..prune import importance
from ..prune.importance import Owned
from ..train import copied
from .compensate import readers, second_order

SAMPLES, BATCH = 128, 8  # of the calibration part

_OF_WEIGHTS = {"magnitude": importance.magnitude, "geometric_median": importance.geometric_median}
_OF_GRADIENTS = {"taylor": importance.taylor, "fisher": importance.fisher}


def importance_of(job: Job, bench: Bench, groups: Sequence[Group], criterion: str) -> dict[str, Tensor]:
    """Importance of each unit [size], for the groups that the criterion says something of.

    Raises:
        LessenError: a gradient that is not finite, or activations that are never zero where zeros are counted.
    """
    if criterion == "second_order":
        return second_order(bench, groups)
    if criterion in ("apoz", "mean_activation"):
        return _of_activations(job, bench, groups, criterion)
    if criterion == "batchnorm_scale":
        return _of_batch_norms(job, groups)
    if criterion == "wanda":
        return _wanda(bench, groups)
    module = copied(bench.module)
    owned = _owned(module, groups)
    if criterion in _OF_WEIGHTS:
        return _OF_WEIGHTS[criterion](owned)
    return _of_gradients(job, module, owned, _OF_GRADIENTS[criterion])


def _of_gradients(
    job: Job, module: nn.Module, owned: Owned, kernel: Callable[[Owned], dict[str, Tensor]]
) -> dict[str, Tensor]:
    total = {name: torch.zeros(len(rows[0][2]), dtype=torch.float64) for name, rows in owned.items()}
    seen = 0
    for batch in job.data.calibration.head(SAMPLES).batches(BATCH):
        module.zero_grad(set_to_none=True)
        with torch.enable_grad():
            job.loss(module(*batch.inputs), batch).sum().backward()
        _check_gradients(module)
        for name, scores in kernel(owned).items():
            total[name] += scores
        seen += batch.n
    return {name: t / (2 * max(seen, 1)) for name, t in total.items()}


def _check_gradients(module: nn.Module) -> None:
    for name, p in module.named_parameters():
        if p.grad is not None and not bool(torch.isfinite(p.grad).all()):
            raise LessenError(
                "its gradient is not finite", where=name, mend="look for NaN in the calibration data or the weights"
            )


def _of_batch_norms(job: Job, groups: Sequence[Group]) -> dict[str, Tensor]:
    """The scales that were folded away on the bench, read off the network as it was given."""
    given = job.model.module
    norms = {f"{n}.weight" for n, m in given.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    parameters = dict(given.named_parameters(remove_duplicate=False))
    scales = {name: p for name, p in parameters.items() if name in norms}
    wanted = {g.name: g for g in groups}
    owned = {
        g.name: _all_rows(scales, [g])[g.name]
        for g in find_groups(given, job.model.inputs).groups
        if g.name in wanted and g.size == wanted[g.name].size
    }
    return importance.batchnorm_scale({name: rows for name, rows in owned.items() if rows})


def _wanda(bench: Bench, groups: Sequence[Group]) -> dict[str, Tensor]:
    parameters = dict(bench.module.named_parameters(remove_duplicate=False))
    norms = {id(parameters[name]): n for name, n in _input_norms(bench) if name in parameters}
    return importance.wanda(_all_rows(parameters, groups), norms)


def _input_norms(bench: Bench) -> Iterator[tuple[str, Tensor]]:
    """(weight, sqrt of the second moment of what each of its entries multiplies, in the weight's shape)."""
    for name, layer in bench.layers.items():
        statistics = bench.statistics.get(name)
        if statistics is not None and statistics.H is not None and layer.groups == 1:
            norms = statistics.H[0].diagonal().clamp_min(0).sqrt()
            yield name, layer.from_matrix(norms.to(layer.matrix).expand(layer.shape).contiguous())


def _of_activations(job: Job, bench: Bench, groups: Sequence[Group], criterion: str) -> dict[str, Tensor]:
    """Per unit, the mean over samples and places of what its readers see: 1 where it is not zero, or its size."""
    found = {g.name: [(layer, columns) for layer, columns in readers(bench, g)] for g in groups}
    layers = {layer.name: layer for rows in found.values() for layer, _ in rows}
    score = (lambda x: (x != 0).double()) if criterion == "apoz" else (lambda x: x.double().abs())
    means = _input_means(job, bench, layers, score)
    seen = {n: [row for row in rows if row[0].name in means] for n, rows in found.items()}  # some never run as modules
    out = {name: _mean_of_readers(rows, means) for name, rows in seen.items() if rows}
    if criterion == "apoz" and all(bool((v > 0.999).all()) for v in out.values()):
        raise LessenError(
            "no activation of this network is ever zero, so counting zeros tells nothing",
            where=next(iter(layers), "apoz"),
            mend='use criterion="mean_activation"',
        )
    return out


def _mean_of_readers(rows: Sequence[tuple[Layer, Tensor]], means: Mapping[str, Tensor]) -> Tensor:
    return sum((means[layer.name][c].mean(1) for layer, c in rows), torch.zeros(1, dtype=torch.float64)) / len(rows)


@torch.no_grad()
def _input_means(
    job: Job, bench: Bench, layers: Mapping[str, Layer], score: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Mean score of each column's input; a convolution's kernel positions all count as their channel."""
    totals: dict[str, list[Tensor]] = {name: [] for name in layers}

    def watch(layer: Layer) -> Callable[[nn.Module, tuple], None]:
        def see(_: nn.Module, args: tuple) -> None:
            x = args[0].movedim(1, -1) if layer.kind == "conv" else args[0]
            totals[layer.name].append(score(x).flatten(0, -2).mean(0))

        return see

    handles = [bench.module.get_submodule(v.module).register_forward_pre_hook(watch(v)) for v in layers.values()]
    try:
        for batch in job.data.calibration.head(SAMPLES).batches(BATCH):
            bench.module(*batch.inputs)
    finally:
        for handle in handles:
            handle.remove()
    means = {name: torch.stack(parts).mean(0) for name, parts in totals.items() if parts}
    return {name: m.repeat_interleave(layers[name].shape[1] // len(m)) for name, m in means.items()}


def _owned(module: nn.Module, groups: Sequence[Group]) -> dict[str, list[tuple[Tensor, int, Tensor]]]:
    """The rows (weights and biases that make a unit's values) of each group."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    owned: dict[str, list[tuple[Tensor, int, Tensor]]] = {}
    for g in groups:
        rows = [m for m in g.members if m.path in parameters and m.path.rpartition(".")[0] in g.producers]
        rows = _outputs(rows) or [m for m in g.members if m.path in parameters][:1]
        owned[g.name] = [(parameters[m.path], m.dim, torch.as_tensor(m.index)) for m in rows]
    return {name: rows for name, rows in owned.items() if rows}


def _all_rows(parameters: Mapping[str, Tensor], groups: Sequence[Group]) -> dict[str, list[tuple[Tensor, int, Tensor]]]:
    """Every parameter's share in each group: those that make a unit and those that read it."""
    return {
        g.name: [(parameters[m.path], m.dim, torch.as_tensor(m.index)) for m in g.members if m.path in parameters]
        for g in groups
    }


def _outputs(rows: Sequence[Member]) -> list[Member]:
    """A tensor may be in a group by two of its dimensions (a square recurrent weight); one of them counts."""
    kept: dict[str, Member] = {}
    for m in rows:
        kept.setdefault(m.path, m)
    return list(kept.values())
