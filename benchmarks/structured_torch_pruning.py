"""How Torch-Pruning is used in `structured_coverage`."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn

from lessen.models.groups.trace import call, tensors


def prune(model: nn.Module, inputs: Any, grouping: Any) -> float:
    """Half the width, in place; returns the seconds of the analysis."""
    import torch_pruning as tp

    torch.manual_seed(0)
    start = time.perf_counter()
    pruner = tp.pruner.BasePruner(
        model,
        inputs if isinstance(inputs, dict) else tuple(inputs),
        importance=_Positional(),
        pruning_ratio=0.5,
        ignored_layers=_output_layers(model, grouping),
        num_heads=_heads(model),
        forward_fn=call,
        output_transform=lambda out: [t for t in tensors(out) if t.grad_fn is not None],
    )
    analysis = time.perf_counter() - start
    pruner.step()
    _repair(model, pruner.num_heads)
    return analysis


def _repair(model: nn.Module, heads: dict[nn.Module, int]) -> None:
    """What its examples do after pruning attention: set the widths that the attention modules keep."""
    for module in model.modules():
        inside = [(name, m) for name, m in module.named_children() if m in heads]
        if inside:
            name, projection = inside[0]
            width = projection.out_features // (3 if "qkv" in name else 1)
            values = {
                "head_dim": width // heads[projection],
                "attention_head_size": width // heads[projection],
                "all_head_size": width,
            }
            for attribute, value in values.items():
                if isinstance(getattr(module, attribute, None), int):
                    setattr(module, attribute, value)


class _Positional:
    """Importance that prunes every other channel, so that a second run on a copy prunes the same."""

    def __call__(self, group: Any, **_: Any) -> Tensor:
        n = len(group[0].idxs)
        return (torch.arange(n) % 2).float() + torch.arange(n) * 1e-4


def _output_layers(model: nn.Module, grouping: Any) -> list[nn.Module]:
    modules = dict(model.named_modules())
    kept = {left.name.rpartition(".")[0] for left in grouping.left if left.reason == "output of the network"}
    return [modules[k] for k in kept if isinstance(modules.get(k), (nn.Linear, nn.modules.conv._ConvNd))]


def _heads(model: nn.Module) -> dict[nn.Module, int]:
    """Number of heads of every projection to queries, keys and values, from the module that holds it."""
    found: dict[nn.Module, int] = {}
    for module in model.modules():
        names = ("num_heads", "num_attention_heads", "n_heads", "n_head", "h")
        heads = next((getattr(module, n) for n in names if isinstance(getattr(module, n, None), int)), None)
        config = getattr(module, "config", None)
        if heads is None and "Attention" in type(module).__name__ and config is not None:
            heads = next((getattr(config, n) for n in names if isinstance(getattr(config, n, None), int)), None)
        for name, child in module.named_children() if heads else ():
            if isinstance(child, nn.Linear) and name.split("_")[0] in {
                "q",
                "k",
                "v",
                "query",
                "key",
                "value",
                "qkv",
                "kk",
            }:
                found[child] = heads
    return found


def analyse(model: nn.Module, inputs: dict) -> None:
    """The dependency graph and its groups."""
    import torch_pruning as tp

    graph = tp.DependencyGraph().build_dependency(
        model, inputs, forward_fn=call, output_transform=lambda out: [t for t in tensors(out) if t.grad_fn is not None]
    )
    list(graph.get_all_groups())
