"""The networks of structured_recovery, what they are fine-tuned on, and what they are judged on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo
from lessen.demo.network import network

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LENGTH = 64  # tokens of a sentence in the file that is timed
Samples = tuple[tuple[Tensor, ...], Tensor]  # inputs, each [n, ...], and labels [n]


@dataclass(frozen=True, eq=False)
class Task:
    """A trained network and its data; the test part is looked at once, by the file that was chosen.

    Args:
        metric: of the project; `loss_points` is of it.
        mirror: whether half of the training images are mirrored.
        rate: peak learning rate of the fine-tuning.
        multiple: channel counts of convolutions are multiples of this, for every tool.
    """

    network: nn.Module
    train: Samples
    validation: Samples
    test: Samples
    metric: str
    rate: float
    mirror: bool = False
    multiple: int = 1
    batch: int = 128
    frozen: tuple[str, ...] = ()


def part(samples: Samples, rows: Tensor | slice) -> Samples:
    return tuple(x[rows] for x in samples[0]), samples[1][rows]


def resnet(scratch: Path, small: bool) -> Task:
    """The demo's ResNet-14 on Fashion-MNIST: trained on the 60,000, judged on the 10,000 it has not seen."""
    x, y, x_test, y_test = zoo.fashion_mnist()
    count = 512 if small else len(x)
    train, rest = ((x[:count],), y[:count]), ((x_test,), y_test)
    return Task(network(), train, part(rest, slice(0, 256 if small else 3000)),
                part(rest, slice(3000, 3500 if small else 10000)), "accuracy", 3e-3, True, 4)  # fmt: skip


class Sentiment(nn.Module):
    """How good or bad a sentence is: a linear layer on the mean of the last hidden states."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(encoder.config.hidden_size, 1)
        with torch.no_grad():
            self.head.weight.zero_()
            self.head.bias.zero_()

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask[..., None].to(hidden.dtype)
        return self.head((hidden * weights).sum(1) / weights.sum(1))[:, 0]


def minilm(scratch: Path, small: bool) -> Task:
    """MiniLM, fine-tuned here to give the mean of 20 people's ratings (-4 to 4) of 10,605 sentences of film reviews."""
    tokenizer, encoder = zoo.minilm()
    samples = _sentences(tokenizer)
    cuts = (256, 512, 768) if small else (6605, 8105, 10605)
    train, validation, test = (part(samples, slice(a, b)) for a, b in zip((0, *cuts), cuts, strict=False))
    encoder.pooler = None  # its output is not used
    model = Sentiment(encoder).eval()
    frozen = ("encoder.embeddings.word_embeddings.weight",)
    made = Task(model, train, validation, test, "spearman", 1e-4, batch=32, frozen=frozen)
    _taught(made, scratch / f"teacher{'_small' if small else ''}.pt", 1 if small else 2)
    return made


def _sentences(tokenizer: Any) -> Samples:
    texts, ratings = zoo.vader("movieReview")
    made = tokenizer(texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0))
    return (made["input_ids"][order], made["attention_mask"][order]), ratings[order]


def _taught(task: Task, path: Path, epochs: int) -> None:
    """The original's own fine-tuning on the ratings, without a teacher; done once."""
    from structured_recovery_tune import tune

    if not path.is_file():
        state = path.with_suffix(".state")
        tune(task.network, task, None, epochs * (len(task.train[1]) // task.batch), 5e-5, state)
        torch.save({k: v.half() for k, v in task.network.state_dict().items() if "word_embeddings" not in k}, path)
    state = {k: v.float() if v.is_floating_point() else v for k, v in torch.load(path).items()}
    task.network.load_state_dict(state, strict=False)


TASKS: dict[str, Callable[[Path, bool], Task]] = {"resnet": resnet, "minilm": minilm}


def loss_of(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(outputs, labels) if outputs.ndim == 2 else F.mse_loss(outputs, labels)
