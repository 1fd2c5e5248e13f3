"""A folder of class folders with images, as the network's input."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lessen.budget import show_bytes
from lessen.data.batch import Batch
from lessen.data.npz import memory_limit
from lessen.errors import LessenError, extra

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
MAX_PIXELS = 1 << 26  # a picture of 67 megapixels takes 200 MB; more is taken for an attack
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True)
class Images:
    """How pictures become inputs: resized (bilinear) to cover size / crop, centre cut out, x * scale, (x - mean) / std.

    Args:
        size: (height, width) the network takes.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA).
        mean, std: one number a channel, on the scaled values; () for none.
        scale: what a byte is multiplied by.
        crop: share of the resized picture that is kept; 0.875 is usual for ImageNet networks.
    """

    size: tuple[int, int]
    channels: int = 3
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    scale: float = 1 / 255
    crop: float = 1.0

    @classmethod
    def like(cls, example: Tensor, where: str) -> Images:
        """What a network wants whose example input is [n, c, h, w]."""
        if example.ndim != 4 or example.shape[1] not in _MODES:
            raise LessenError(
                f"pictures for a network that takes {tuple(example.shape)}",
                where=where,
                mend="a network for a folder of images takes [n, 1|3|4, height, width]; else use file.py:function",
            )
        return cls((example.shape[2], example.shape[3]), example.shape[1])

    def read(self, path: Path) -> Tensor:
        """The picture as bytes, uint8 [c, h, w]; raises `LessenError` naming the file if it can't be read."""
        image_module = extra("PIL.Image", "images")
        try:
            with image_module.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise LessenError(f"{image.width} x {image.height} pixels", where=str(path), mend="make it smaller")
                return self._fit(extra("PIL.ImageOps", "images").exif_transpose(image))
        except LessenError:
            raise
        except Exception as error:  # decoders raise whatever they like on hostile input
            raise LessenError(f"not a readable image ({error})", where=str(path), mend="repair or remove it") from error

    def _fit(self, image: Any) -> Tensor:
        image = image.convert(_MODES[self.channels])
        height, width = self.size
        ratio = max(height / image.height, width / image.width) / self.crop
        resized = (max(width, round(image.width * ratio)), max(height, round(image.height * ratio)))
        if resized != image.size:
            image = image.resize(resized, resample=2)  # 2: bilinear, with antialiasing when shrinking
        left, top = (resized[0] - width) // 2, (resized[1] - height) // 2
        pixels = np.array(image.crop((left, top, left + width, top + height)), dtype=np.uint8)
        return torch.from_numpy(pixels.reshape(height, width, self.channels)).permute(2, 0, 1).contiguous()

    def __call__(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Bytes [n, c, h, w] to float32, scaled and normalised."""
        (x,) = inputs
        x = x.float() * self.scale
        if self.mean:
            x = x - torch.tensor(self.mean).view(-1, 1, 1)
        if self.std:
            x = x / torch.tensor(self.std).view(-1, 1, 1)
        return (x,)


def class_folders(folder: Path) -> list[Path]:
    """The class folders, sorted by name: class 0, 1, 2, ..."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def read_folder(folder: Path, how: Images, classes: list[str] | None = None) -> Batch:
    """All pictures as one batch of bytes [n, c, h, w] with int64 labels, class by class; other files are ignored.

    Args:
        classes: names that fix the numbering (so that every part counts alike); default: the folder's own.

    Raises:
        LessenError: no class folders, no pictures, a picture that can't be read, more than memory can hold.
    """
    folders = class_folders(folder)
    names = classes or [f.name for f in folders]
    files = [(p, names.index(f.name)) for f in folders if f.name in names for p in _pictures(f)]
    if not files:
        raise LessenError(
            "no class folders with pictures in it",
            where=str(folder),
            mend="lay it out as FOLDER/class-name/picture.png",
        )
    need = len(files) * how.channels * how.size[0] * how.size[1]
    if need > memory_limit():
        raise LessenError(f"{len(files)} pictures need {show_bytes(need)}", where=str(folder), mend="give fewer")
    extra("PIL.Image", "images")  # one clear message, not one from every thread
    with warnings.catch_warnings(), ThreadPoolExecutor(4) as threads:
        warnings.simplefilter("ignore")  # Pillow warns where `read` refuses
        pixels = torch.stack(list(threads.map(how.read, [p for p, _ in files])))
    return Batch((pixels,), torch.tensor([label for _, label in files]))


def _pictures(folder: Path) -> Iterator[Path]:
    return (p for p in sorted(folder.rglob("*")) if p.suffix.lower() in SUFFIXES and p.is_file())
