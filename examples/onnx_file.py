"""An ONNX file from another framework: the text-direction network of RapidOCR, trained and exported with PaddlePaddle.

The data are lines of text drawn here, upright and upside down; the answer to "which way up?" is the label.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import lessen
import zoo

WORDS = "the quick brown fox jumps over a lazy dog while seven wizards bake lemon pies near Geneva".split()


def line(rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """A picture [3, 48, 192] in -1..1 and 0 (upright) or 1 (turned by 180 degrees)."""
    picture = Image.new("RGB", (192, 48), tuple(int(v) for v in rng.integers(150, 256, 3)))
    text = " ".join(rng.choice(WORDS, 3))
    font = ImageFont.load_default(size=int(rng.integers(18, 30)))
    ImageDraw.Draw(picture).text(
        (6, int(rng.integers(2, 14))), text, tuple(int(v) for v in rng.integers(0, 90, 3)), font
    )
    turned = int(rng.integers(2))
    picture = picture.rotate(180) if turned else picture
    noise = rng.normal(0, 12, (48, 192, 3))
    return ((np.asarray(picture) + noise) / 127.5 - 1).astype("float32").transpose(2, 0, 1), turned


rng = np.random.default_rng(0)
pictures, labels = zip(*(line(rng) for _ in range(1200)), strict=True)
np.savez("lines.npz", x=np.stack(pictures), y=np.array(labels))

result = lessen.Compression(zoo.onnx_files()["ocr_direction"], "lines.npz", "1%", "uniform").run("out")
before, after = result.report.baseline, result.report.result
packed = result.files["model.lessen"].stat().st_size
print(f"{before.file_bytes:,} -> {after.file_bytes:,} bytes, packed {packed:,}")
print(f"accuracy {before.metric.value:.4f} -> {after.metric.value:.4f} on {after.metric.n} lines")
assert result.report.budget.met, result.report.budget
