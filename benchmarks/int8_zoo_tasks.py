"""The models of int8_zoo: every real network of the zoo, what it is calibrated on and how its answers are scored."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import int8_tasks
import torch
from int8_tasks import Run, Task
from int8_zoo_sounds import basic_pitch, silero, silero_onnx, whisper_encoder
from int8_zoo_texts import character_gpt, g2p, ocr_detector, ocr_direction, ocr_recogniser
from torch import Tensor, nn

import zoo
from lessen.demo import data as demo_data
from lessen.demo import network as demo_network

CALIBRATION, VALIDATION = 300, 2000


def parts_of(x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor) -> dict[str, Any]:
    """Calibration and validation from the training data (its end, should a network have seen it in order)."""
    c, v = len(x) - CALIBRATION, len(x) - CALIBRATION - VALIDATION
    return {"calibration": (x[c:], y[c:]), "validation": (x[v:c], y[v:c]), "test": (x_test, y_test)}


def _classifier(network: Callable[[], nn.Module], data: Callable[[], tuple[Tensor, ...]]) -> Callable[[], Task]:
    def task() -> Task:
        parts = parts_of(*data())
        return Task(network(), parts, "accuracy", f"accuracy on {len(parts['test'][0])} test samples")

    return task


def _digits() -> tuple[Tensor, ...]:
    """The digit network was trained by others on other digits: all but what it is calibrated on can be a test."""
    x, y, x_test, y_test = zoo.mnist()
    few = CALIBRATION + VALIDATION
    return x[:few], y[:few], torch.cat([x[few:], x_test]), torch.cat([y[few:], y_test])


def demo_resnet() -> Task:
    """The demo's network, on all of its data."""
    parts = {name: demo_data.part(name) for name in ("calibration", "validation", "test")}
    says = f"accuracy on {len(parts['test'][0])} test images"
    return Task(demo_network.network(), parts, "accuracy", says)


def efficientnet_lite0() -> Task:
    """As int8_peers has it; top-1 agreement and the 20 labelled photographs besides."""
    task = int8_tasks.efficientnet_lite0()
    photos, network = task.parts["test"], task.network
    with torch.no_grad():
        said = torch.cat([network(x).argmax(1) for x in photos.split(50)])

    def more(run: Run) -> Mapping[str, tuple[float, str]]:
        same = (_top1(run, photos) == said).double().mean()
        labelled = zoo.foolbox("imagenet")
        right = _top1(run, torch.cat([zoo.photo_tensor(i) for i, _ in labelled])) == torch.tensor(
            [n for _, n in labelled]
        )
        return {"agreement": (100 * float(same), "% of 300 photographs"),
                "top1_foolbox": (100 * float(right.double().mean()), "% of 20 photographs")}  # fmt: skip

    return dataclasses.replace(task, more=more)


def _top1(run: Run, images: Tensor) -> Tensor:
    return torch.cat([torch.as_tensor(run((x,))[0]).argmax(1) for x in images.split(50)])


TASKS: dict[str, Callable[[], Task]] = {
    "letters_mlp": _classifier(zoo.letters_mlp, zoo.letters),
    "lenet_300_100": _classifier(zoo.lenet_300_100, zoo.fashion_mnist),
    "lenet_5": _classifier(zoo.lenet_5, zoo.fashion_mnist),
    "resnet_8": _classifier(zoo.resnet_8, zoo.fashion_mnist),
    "depthwise": _classifier(zoo.depthwise, zoo.fashion_mnist),
    "digit_cnn": _classifier(zoo.digit_cnn, _digits),
    "demo_resnet": demo_resnet,
    "efficientnet_lite0": efficientnet_lite0,
    "minilm": int8_tasks.minilm,
    "character_gpt": character_gpt,
    "g2p": g2p,
    "silero_vad": silero,
    "silero_vad_onnx": silero_onnx,
    "whisper_encoder": whisper_encoder,
    "ocr_direction": ocr_direction,
    "ocr_recogniser": ocr_recogniser,
    "ocr_detector": ocr_detector,
    "basic_pitch": basic_pitch,
}
