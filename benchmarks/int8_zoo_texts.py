"""Words and drawn text: the networks of int8_zoo that spell, write on and read."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import torch
from int8_tasks import Task
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import zoo
from zoo.text import PHONEMES, START, STOP
from zoo.whisper import edits

LETTERS, SAID, WAYS = 24, 20, 4  # of a word: letters at most, phonemes at most, pronunciations kept


def g2p() -> Task:
    """Spelling to phonemes; a word counts when the network says one of the dictionary's pronunciations."""
    known = zoo.cmudict()
    words = sorted(w for w in known if len(w) < LETTERS)[::17]
    words = [words[i] for i in np.random.default_rng(0).permutation(len(words))]
    cuts = (0, 300, 1800, 5800)
    parts = {}
    for name, (start, end) in zip(("calibration", "validation", "test"), pairwise(cuts), strict=True):
        some = words[start:end]
        letters = torch.nn.functional.pad(zoo.spell(some), (0, LETTERS))[:, :LETTERS]
        parts[name] = (letters, torch.stack([_pronunciations(known[w]) for w in some]))
    return Task(zoo.g2p(), parts, words_right, "words said as the dictionary does, of 4,000")


def _pronunciations(ways: list[list[str]]) -> Tensor:
    """[ways, phonemes + 1], each ended by a stop; unused ways are all -1."""
    found = torch.full((WAYS, SAID + 1), -1)
    for row, way in zip(found, ways, strict=False):
        codes = [PHONEMES.index(p) for p in way][:SAID]
        row[: len(codes) + 1] = torch.tensor([*codes, STOP])
    return found


def words_right(outputs: Tensor, labels: Tensor) -> np.ndarray:
    """1 for each word whose phonemes up to the stop are one of its pronunciations."""
    said = torch.nn.functional.pad(outputs, (0, 1), value=STOP)
    upto = (said == STOP).int().cumsum(1) - (said == STOP).int() == 0
    wanted = labels >= 0
    same = ((said[:, None] == labels) | ~wanted) & (upto[:, None] == wanted)
    return (same.all(2) & wanted.any(2)).any(1).double().numpy()


words_right.unit = "points"  # type: ignore[attr-defined]
assert START == 2


def character_gpt() -> Task:
    """The next character of the King James Bible."""
    _, train, test = zoo.characters()

    def rows(tokens: Tensor, start: int, count: int) -> tuple[Tensor, Tensor]:
        cut = tokens[start : start + 129 * count].view(count, 129)
        return cut[:, :-1].contiguous(), cut[:, 1:].contiguous()

    parts = {"calibration": rows(train, 0, 64), "validation": rows(train, 10**6, 64), "test": rows(test, 0, 300)}
    return Task(zoo.character_gpt(), parts, "accuracy", "next characters right, of 38,400", transformer=True)


def ocr_direction() -> Task:
    """Is a line of text upside down? Labels by construction."""

    def part(count: int, seed: int) -> tuple[Tensor, Tensor]:
        turned = torch.from_numpy(np.random.default_rng(seed).integers(0, 2, count))
        lines = [line(text, 48, 192) for text in sentences(count, seed, 14)]
        lines = [x.rotate(180) if t else x for x, t in zip(lines, turned, strict=True)]
        return torch.cat([scaled(x) for x in lines]), turned

    parts = {"calibration": part(200, 0), "validation": part(500, 1), "test": part(2000, 2)}
    return Task(str(zoo.onnx_files()["ocr_direction"]), parts, "accuracy", "lines told right side up, of 2,000")


def ocr_recogniser() -> Task:
    """What does a line of text say? The share of characters read right."""
    path = zoo.onnx_files()["ocr_recogniser"]
    alphabet = ["", *onnx.load(path).metadata_props[0].value.splitlines(), " "]
    number = {c: i for i, c in enumerate(alphabet)}

    def part(count: int, seed: int) -> tuple[Tensor, Tensor]:
        texts = sentences(count, seed, 22)
        labels = torch.zeros(count, 32, dtype=torch.int64)
        for row, text in zip(labels, texts, strict=True):
            row[: len(text)] = torch.tensor([number[c] for c in text])
        return torch.cat([scaled(line(text, 48, 320)) for text in texts]), labels

    parts = {"calibration": part(100, 0), "validation": part(100, 1), "test": part(250, 2)}
    return Task(str(path), parts, characters_right, "1 - character error rate on 250 drawn lines")


def characters_right(outputs: Tensor, labels: Tensor) -> np.ndarray:
    """1 - edits / length for each line, greedy CTC."""
    best = outputs.argmax(-1)
    found = []
    for row, wanted in zip(best.tolist(), labels.tolist(), strict=True):
        said = [str(c) for i, c in enumerate(row) if c and (i == 0 or c != row[i - 1])]
        real = [str(c) for c in wanted if c]
        found.append(max(1 - edits(real, said) / len(real), 0.0))
    return np.array(found)


characters_right.unit = "points"  # type: ignore[attr-defined]


def ocr_detector() -> Task:
    """Where is text on a page? F1 of pixels against the boxes that were drawn."""

    def part(count: int, seed: int) -> tuple[Tensor, Tensor]:
        pages = [_page(sentences(6, 1000 * seed + n, 22), np.random.default_rng([seed, n])) for n in range(count)]
        return torch.cat([p for p, _ in pages]), torch.stack([m for _, m in pages])

    parts = {"calibration": part(48, 0), "validation": part(48, 1), "test": part(150, 2)}
    return Task(str(zoo.onnx_files()["ocr_detector"]), parts, pixels_right, "F1 of text pixels on 150 drawn pages")


def _page(texts: list[str], rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    page, mask = Image.new("RGB", (320, 320), tuple(rng.integers(180, 256, 3).tolist())), Image.new("L", (320, 320))
    for n, text in enumerate(texts):
        corner = (int(rng.integers(2, 60)), 50 * n + int(rng.integers(2, 16)))
        with_font = font(int(rng.integers(14, 26)))
        ImageDraw.Draw(page).text(corner, text, tuple(rng.integers(0, 100, 3).tolist()), with_font)
        ImageDraw.Draw(mask).rectangle(ImageDraw.Draw(mask).textbbox(corner, text, with_font), 1)
    return scaled(page), torch.from_numpy(np.array(mask)).long()


def pixels_right(outputs: Tensor, labels: Tensor) -> np.ndarray:
    """F1 of each page at a threshold of 0.3, the detector's own."""
    found, wanted = outputs[:, 0] > 0.3, labels > 0
    hit = (found & wanted).sum((1, 2)).double()
    return (2 * hit / (found.sum((1, 2)) + wanted.sum((1, 2))).clamp_min(1)).numpy()


pixels_right.unit = "points"  # type: ignore[attr-defined]


@cache
def font(size: int) -> Any:
    """Pillow's own typeface."""
    return ImageFont.load_default(size)


def sentences(count: int, seed: int, longest: int) -> list[str]:
    """Words of the King James Bible, as many as fit into `longest` characters."""
    rng, text = np.random.default_rng([seed, longest]), zoo.kjv()
    found = []
    for start in rng.integers(0, len(text) - 200, count):
        words = [w for w in text[start : start + 120].split()[1:] if w.isascii()]
        said = ""
        while words and len(said) + 1 + len(words[0]) <= longest:
            said = f"{said} {words.pop(0)}".strip()
        found.append(said or "and")
    return found


def line(text: str, height: int, width: int) -> Image.Image:
    """Black on white, as large as fits."""
    size = 34
    while size > 10 and font(size).getlength(text) > width - 8:
        size -= 1
    image = Image.new("RGB", (width, height), "white")
    ImageDraw.Draw(image).text((4, height // 2), text, "black", font(size), anchor="lm")
    return image


def scaled(image: Image.Image) -> Tensor:
    """[1, 3, height, width] in -1..1, as RapidOCR has it."""
    return (torch.from_numpy(np.asarray(image, "float32") / 255).permute(2, 0, 1)[None] - 0.5) / 0.5
