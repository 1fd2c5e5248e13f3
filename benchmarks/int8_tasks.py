"""The networks of int8_peers, with what they are calibrated and judged on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from int8_nets import resnet_50
from torch import Tensor, nn

import zoo
from lessen.data.scores import spearman
from lessen.demo import data as demo_data
from lessen.demo import network as demo_network

LENGTH = 64  # tokens of a sentence
QUICK = {"calibration": 64, "validation": 250, "test": 500}
Run = Callable[[tuple[Tensor, ...]], Any]


@dataclass(frozen=True, eq=False)
class Task:
    """A network, its data, and how answers are judged.

    Args:
        parts: calibration, validation and test.
        metric: what `loss_points` is of.
        says: what that means, for the rows.
        transformer: peers have a mode for those, and are run in it.
        more: name -> another score of a file, from its session.
    """

    network: nn.Module
    parts: dict[str, Any]
    metric: str
    says: str
    transformer: bool = False
    more: Callable[[Run], dict[str, tuple[float, str]]] = lambda run: {}


def demo_resnet() -> Task:
    """175 k parameters; a part of its data, for the quick run."""
    parts = {name: (x[:count], y[:count]) for name, count in QUICK.items() for x, y in [demo_data.part(name)]}
    return Task(demo_network.network(), parts, "accuracy", f"accuracy on {QUICK['test']} test images")


def resnet50() -> Task:
    """Random weights: speed and size are real; agreement with the float outputs stands for accuracy."""
    images = _photos(300, 60, 100)
    says = "random weights: 100 x (1 - cosine) of the outputs stands for accuracy"
    return Task(resnet_50(images["calibration"][:16]), images, "cosine", says)


def efficientnet_lite0() -> Task:
    """Real ImageNet weights, photographs without labels."""
    says = "100 x (1 - cosine) of the logits on 300 photographs"
    return Task(zoo.efficientnet_lite0(), _photos(300, 200, 300), "cosine", says)


def minilm() -> Task:
    """all-MiniLM-L6-v2, sentences of 64 tokens."""
    tokenizer, encoder = zoo.minilm()
    texts = zoo.vader()[0]
    parts, start = {}, 0
    for name, count in {"calibration": 300, "validation": 200, "test": 500}.items():
        ids, mask = _tokens(tokenizer, texts[start : start + count])
        parts[name] = [{"ids": i, "mask": m} for i, m in zip(ids.split(25), mask.split(25), strict=True)]
        start += count
    says = "100 x (1 - cosine) of the embeddings of 500 sentences"
    return Task(Encoder(encoder).eval(), parts, "cosine", says, True, lambda run: _lee(tokenizer, run))


TASKS: dict[str, Callable[[], Task]] = {
    "demo_resnet": demo_resnet, "resnet50": resnet50, "efficientnet_lite0": efficientnet_lite0, "minilm": minilm,
}  # fmt: skip


class Encoder(nn.Module):
    """A sentence's embedding: the mean of the last hidden states, of norm 1."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask[..., None].to(hidden.dtype)
        return F.normalize((hidden * weights).sum(1) / weights.sum(1), dim=1)


def _tokens(tokenizer: Any, texts: list[str]) -> tuple[Tensor, Tensor]:
    made = tokenizer(texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
    return made["input_ids"], made["attention_mask"]


def _lee(tokenizer: Any, run: Run) -> dict[str, tuple[float, str]]:
    """Rank correlation with human judgement on the 1,225 pairs of Lee's documents (their first 64 tokens)."""
    documents, first, second, wanted = zoo.lee()
    ids, mask = _tokens(tokenizer, documents)
    embedded = torch.cat([torch.as_tensor(run((i, m))[0]) for i, m in zip(ids.split(25), mask.split(25), strict=True)])
    found = (embedded[first] * embedded[second]).sum(1)
    return {"spearman_lee": (spearman(torch.stack((found, wanted), 1).double()), "rank correlation")}


def _photos(calibration: int, validation: int, test: int) -> dict[str, Tensor]:
    counts = {"calibration": calibration, "validation": validation, "test": test}
    return {name: zoo.photos(count, seed=seed) for seed, (name, count) in enumerate(counts.items())}
