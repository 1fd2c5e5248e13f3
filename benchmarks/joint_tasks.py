"""The tasks of joint_vs_single: trained networks with data that they have not seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import zoo
from lessen.demo import data as demo_data
from lessen.demo import network as demo_network

Task = Callable[[], tuple[Any, dict[str, Any]]]  # -> network, parts of the data
CALIBRATION, VALIDATION = 500, 1000


def demo_resnet() -> tuple[Any, dict[str, Any]]:
    """The packaged ResNet-14 on Fashion-MNIST, 3,500 test images."""
    return demo_network.network(), demo_data.parts()


def letters() -> tuple[Any, dict[str, Any]]:
    """A perceptron on UCI's letters, 4,000 test samples."""
    return zoo.letters_mlp(), _parts(*zoo.letters())


def lenet_300_100() -> tuple[Any, dict[str, Any]]:
    """LeNet-300-100 on Fashion-MNIST, 10,000 test images."""
    return zoo.lenet_300_100(), _parts(*zoo.fashion_mnist())


def lenet_5() -> tuple[Any, dict[str, Any]]:
    """LeNet-5 on Fashion-MNIST, 10,000 test images."""
    return zoo.lenet_5(), _parts(*zoo.fashion_mnist())


def depthwise() -> tuple[Any, dict[str, Any]]:
    """A small MobileNet on Fashion-MNIST, 10,000 test images."""
    return zoo.depthwise(), _parts(*zoo.fashion_mnist())


TASKS: dict[str, Task] = {
    "demo_resnet": demo_resnet, "letters_mlp": letters, "lenet_300_100": lenet_300_100, "lenet_5": lenet_5,
    "depthwise": depthwise,
}  # fmt: skip


def _parts(x: Any, y: Any, x_test: Any, y_test: Any) -> dict[str, Any]:
    """Calibration and validation from the training split, the whole test split to test on."""
    cut = CALIBRATION + VALIDATION
    return {
        "calibration": (x[:CALIBRATION], y[:CALIBRATION]),
        "validation": (x[CALIBRATION:cut], y[CALIBRATION:cut]),
        "test": (x_test, y_test),
    }
