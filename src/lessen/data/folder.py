"""What the command line says of data beyond its path: how pictures become inputs, and the shape of one sample."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lessen.data.images import Images
from lessen.errors import LessenError, did_you_mean

_HOW = 'write "mean=0.5,std=0.5,crop=0.875", or a value a channel: "mean=0.485:0.456:0.406"'
_MOST = 2**28  # numbers in one sample; more is a slip of the keyboard


@dataclass(frozen=True)
class ImageFolder:
    """A folder of class folders with pictures, and how they become inputs.

    Args:
        path: the folder.
        shape: (channels, height, width) the network takes; () where the network tells.
        mean, std, crop: as for `Images`.
    """

    path: str
    shape: tuple[int, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    crop: float = 1.0

    def images(self, example: Tensor | None) -> Images:
        """What is done to the pictures for a network with this example input."""
        wanted = example if not self.shape else torch.empty(1, *self.shape, device="meta")
        if wanted is None:
            raise LessenError(
                "the network does not tell which pictures it takes",
                where=self.path,
                mend="give --input-shape 3x224x224",
            )
        plain = Images.like(wanted, self.path)
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (0, 1, plain.channels):
                raise LessenError(
                    f"{len(values)} values of {name} for {plain.channels} channels", where="--images", mend=_HOW
                )
        return Images(plain.size, plain.channels, self.mean, self.std, crop=self.crop)


def described(data: str, images: str | None = None, shape: str | None = None) -> str | ImageFolder:
    """The data as `load_data` takes it: a folder of images with what was said of it, everything else as it was.

    Raises:
        LessenError: options that can't be read, or options of pictures for data that are none.
    """
    if images is None and shape is None:
        return data
    if not Path(data).is_dir():
        option = "--images" if images is not None else "--input-shape"
        raise LessenError("is for a folder of images", where=option, mend=f"leave it out: {data!r} is none")
    values = _values(images or "")
    return ImageFolder(data, shape_of(shape) or (), **values)  # type: ignore[arg-type]


def shape_of(text: str | None) -> tuple[int, ...] | None:
    """ "3x224x224" -> (3, 224, 224)."""
    if text is None:
        return None
    words = text.lower().replace(",", "x").split("x")
    sizes = tuple(int(w) for w in words if w.isascii() and w.isdigit() and len(w) < 10)
    if len(sizes) != len(words) or 0 in sizes or math.prod(sizes) > _MOST:
        raise LessenError(f"can't read {text!r}", where="--input-shape", mend='write "3x224x224" (without the batch)')
    return sizes


def _values(text: str) -> dict[str, float | tuple[float, ...]]:
    found: dict[str, float | tuple[float, ...]] = {}
    for word in (w for w in text.split(",") if w.strip()):
        key, _, value = (part.strip() for part in word.partition("="))
        if key not in ("mean", "std", "crop"):
            raise LessenError(f"unknown {key!r}", where="--images", mend=did_you_mean(key, ("mean", "std", "crop")))
        numbers = tuple(map(_number, value.split(":")))
        if key == "crop":
            if len(numbers) != 1 or not 0 < numbers[0] <= 1:
                raise LessenError(f"crop {value!r} is not between 0 and 1", where="--images", mend=_HOW)
            found[key] = numbers[0]
        elif len(numbers) not in (1, 3, 4) or (key == "std" and min(numbers) <= 0):
            raise LessenError(f"{key} {value!r}: one positive number a channel", where="--images", mend=_HOW)
        else:
            found[key] = numbers
    return found


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise LessenError(f"{text!r} is not a number", where="--images", mend=_HOW)
    return value
