"""The networks of oneshot_pruning, what they are calibrated on, and how what is left of them is judged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from int8_tasks import Encoder
from torch import Tensor, nn

import zoo

Batches = Sequence[tuple[Tensor, ...]]


@dataclass(frozen=True, eq=False)
class Task:
    """A trained network and its data.

    Args:
        calibration, held_out: batches of inputs; second moments of the second judge what was fitted on the first.
        score: a network -> higher is better.
        says: what the score is.
        n: samples that it is measured on.
    """

    network: nn.Module
    calibration: Batches
    held_out: Batches
    score: Callable[[nn.Module], float]
    says: str
    n: int


def images(network: nn.Module, split: tuple[Tensor, Tensor, Tensor, Tensor], test: int) -> Task:
    """A classifier: 512 and 512 training samples, accuracy on test samples."""
    x, _, x_test, y_test = split

    def score(net: nn.Module) -> float:
        return zoo.accuracy(net, x_test[:test], y_test[:test])

    return Task(network, _batches(x[:512]), _batches(x[512:1024]), score, "accuracy", min(test, len(x_test)))


def minilm() -> Task:
    """Sentiment of film reviews by a linear probe on MiniLM's embeddings, trained on the whole network's."""
    tokenizer, encoder = zoo.minilm()
    texts, ratings = zoo.vader("movieReview")
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0)).tolist()  # they come film by film
    clear = [i for i in order if abs(float(ratings[i])) > 0.5]
    texts, labels = [texts[i] for i in clear], (ratings[clear] > 0).float()
    parts = {"calibration": slice(0, 256), "held_out": slice(256, 384), "train": slice(384, 1884)}
    test = slice(1884, 2884)
    embedded = zoo.embed(tokenizer, encoder, texts[parts["train"]])
    probe = _probe(embedded, labels[parts["train"]])

    def score(net: nn.Module) -> float:
        said = zoo.embed(tokenizer, net.encoder, texts[test]) @ probe[:-1] + probe[-1]
        return float(((said > 0) == (labels[test] > 0)).float().mean())

    sentences = [_sentences(tokenizer, texts[parts[k]]) for k in ("calibration", "held_out")]
    return Task(Encoder(encoder).eval(), *sentences, score, "accuracy of a sentiment probe", 1000)


def efficientnet() -> Task:
    """EfficientNet-Lite0: how often the network's first class stays the same, on photographs without labels."""
    network, photos = zoo.efficientnet_lite0(), zoo.photos(200, seed=2)
    with torch.no_grad():
        wanted = torch.cat([network(x) for x in photos.split(20)]).argmax(1)

    def score(net: nn.Module) -> float:
        return zoo.accuracy(net, photos, wanted, 20)

    calibration, held_out = zoo.photos(128, seed=0), zoo.photos(64, seed=1)
    return Task(network, _batches(calibration, 8), _batches(held_out, 8), score, "first class as before", 200)


def g2p() -> Task:
    """Spelling to phonemes by two GRUs."""
    words = sorted(zoo.cmudict())
    words = [words[i] for i in torch.randperm(len(words), generator=torch.Generator().manual_seed(0)).tolist()]
    letters = [[(zoo.spell(words[i : i + 32]),) for i in range(start, start + 512, 32)] for start in (0, 512)]

    def score(net: nn.Module) -> float:
        return zoo.word_accuracy(net, words[1024:2024])

    return Task(zoo.g2p(), *letters, score, "words said right", 1000)


TASKS: dict[str, Callable[[], Task]] = {
    "minilm": minilm,
    "efficientnet_lite0": efficientnet,
    "digit_cnn": lambda: images(zoo.digit_cnn(), zoo.mnist(), 2000),
    "letters_mlp": lambda: images(zoo.letters_mlp(), zoo.letters(), 4000),
    "lenet_300_100": lambda: images(zoo.lenet_300_100(), zoo.fashion_mnist(), 10000),
    "lenet_5": lambda: images(zoo.lenet_5(), zoo.fashion_mnist(), 5000),
    "resnet_8": lambda: images(zoo.resnet_8(), zoo.fashion_mnist(), 2000),
    "depthwise": lambda: images(zoo.depthwise(), zoo.fashion_mnist(), 4000),
    "g2p": g2p,
}


def _batches(x: Tensor, size: int = 64) -> Batches:
    return [(part,) for part in x.split(size)]


def _sentences(tokenizer: Any, texts: Iterable[str]) -> Batches:
    """Sentences of about equal length together, so that little is padded."""
    ordered = sorted(texts, key=len)
    made = [
        tokenizer(ordered[i : i + 8], padding=True, truncation=True, max_length=128, return_tensors="pt")
        for i in range(0, len(ordered), 8)
    ]
    return [(m["input_ids"], m["attention_mask"]) for m in made]


def _probe(x: Tensor, y: Tensor, ridge: float = 1.0) -> Tensor:
    """Weights and a bias, [d + 1], by ridge regression on -1 and 1."""
    X = torch.cat((x, torch.ones(len(x), 1)), 1).double()
    return torch.linalg.solve(X.T @ X + ridge * torch.eye(X.shape[1]).double(), X.T @ (2 * y.double() - 1)).float()
