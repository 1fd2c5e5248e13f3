"""Train the zoo's small networks and write tests/zoo/checkpoints/NAME.safetensors (each below 2 MB).

    python scripts/train_nets.py [NAME ...]

Deterministic on one kind of machine: weights and batch order come from generators of their own, and one thread does
the sums. About 15 minutes for all; the scores that were reached are in tests/zoo/checkpoints/README.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from zoo import images, nets, tables
from zoo.cache import CHECKPOINTS
from zoo.training import Batches, accuracy, initialise, shuffled, train


def save(name: str, network: nn.Module, dtype: torch.dtype = torch.float32) -> None:
    """Write the weights; `dtype` half is for networks above 2 MB and is what the figures are measured with."""
    tensors = {k: v.to(dtype) if v.is_floating_point() else v for k, v in network.state_dict().items()}
    CHECKPOINTS.mkdir(parents=True, exist_ok=True)
    save_file(tensors, CHECKPOINTS / f"{name}.safetensors")
    network.load_state_dict(tensors)


def _classifier(network: nn.Module, data: images.Split, epochs: int, batch: int, rate: float, augment: bool) -> str:
    x, y, x_test, y_test = data
    train(network, shuffled(x, y, batch, augment), epochs, steps=len(x) // batch, rate=rate)
    return f"{100 * accuracy(network, x_test, y_test):.2f} % of {len(x_test)} test samples"


def lenet_300_100() -> str:
    network = initialise(nets.LeNet300100(), 1)
    result = _classifier(network, images.fashion_mnist(), 10, 128, 1e-3, False)
    save("lenet_300_100", network)
    return result


def lenet_5() -> str:
    network = initialise(nets.LeNet5(), 2)
    result = _classifier(network, images.fashion_mnist(), 6, 128, 2e-3, False)
    save("lenet_5", network)
    return result


def resnet_8() -> str:
    network = initialise(nets.ResNet(1), 3)
    result = _classifier(network, images.fashion_mnist(), 3, 128, 4e-3, True)
    save("resnet_8", network)
    return result


def depthwise() -> str:
    network = initialise(nets.Depthwise(), 4)
    result = _classifier(network, images.fashion_mnist(), 6, 128, 4e-3, True)
    save("depthwise", network)
    return result


def letters() -> str:
    network = initialise(nets.LettersMLP(), 5)
    result = _classifier(network, tables.letters(), 40, 128, 3e-3, False)
    save("letters", network)
    return result


def _windows(tokens: Tensor, steps: int, batch: int = 32, length: int = 128) -> Batches:
    def epoch(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(steps):
            starts = torch.randint(len(tokens) - length, (batch, 1), generator=generator)
            rows = tokens[starts + torch.arange(length + 1)]
            yield rows[:, :-1], rows[:, 1:]

    return epoch


def character_gpt() -> str:
    alphabet, tokens, test = tables.characters()
    network = initialise(nets.CharacterGPT(len(alphabet)), 6)
    train(network, _windows(tokens, 200), 5, steps=200, rate=2e-3, decay=0.01)
    save("character_gpt", network, torch.float16)
    rows = test[: len(test) // 129 * 129].view(-1, 129)[::8]
    with torch.no_grad():
        loss = F.cross_entropy(network(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten()).item()
    return f"{loss:.4f} nats a character over {rows.shape[0]} windows"


RECIPES: tuple[Callable[[], str], ...] = (letters, lenet_300_100, depthwise, resnet_8, lenet_5, character_gpt)

if __name__ == "__main__":
    torch.set_num_threads(1)  # the order of sums, and so the result, does not hang on the number of cores
    for recipe in RECIPES:
        if not sys.argv[1:] or recipe.__name__ in sys.argv[1:]:
            print(recipe.__name__, flush=True)
            print(f"  {recipe()}", flush=True)
