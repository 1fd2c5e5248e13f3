"""Make the demo's data and train its network: src/lessen/demo/{data.npz,network.safetensors}.

    python scripts/make_demo.py            # about 12 minutes on two idle cores

Deterministic on one machine: weights, batch order and the choice of images come from generators of their own.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from lessen.demo import data, network
from zoo.images import fashion_mnist
from zoo.training import accuracy, initialise, shuffled, train


def write_data() -> None:
    """Random images, every part another; training split for train and calibration, test split for the rest."""
    x_train, y_train, x_test, y_test = fashion_mnist()
    rng, arrays = np.random.default_rng(0), {}
    for x, y, names in ((x_train, y_train, ("train", "calibration")), (x_test, y_test, ("validation", "test"))):
        order, start = rng.permutation(len(x)), 0
        for name in names:
            rows = order[start : start + data.SIZES[name]]
            start += len(rows)
            arrays[f"{name}_images"] = (x[rows, 0] * 255).round().to(torch.uint8).numpy()
            arrays[f"{name}_labels"] = y[rows].to(torch.uint8).numpy()
    np.savez_compressed(data.DATA, **arrays)


def train_network(epochs: int = 5) -> float:
    """Train on all 60,000 training images; returns the accuracy on all 10,000 test images."""
    x, y, x_test, y_test = fashion_mnist()
    model = initialise(network.ResNet(depth=2), 7)
    train(model, shuffled(x, y, 128, augment=True), epochs, steps=len(x) // 128, rate=4e-3)
    save_file(model.state_dict(), network.WEIGHTS)
    return accuracy(network.network(), x_test, y_test)


if __name__ == "__main__":
    torch.set_num_threads(2)
    write_data()
    print(f"{100 * train_network():.2f} % of the test split")
