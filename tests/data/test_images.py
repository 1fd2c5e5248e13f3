"""Folders of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lessen.data import Images, load_data
from lessen.errors import LessenError

pil = pytest.importorskip("PIL.Image")


def _picture(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (12, 10)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pil.new("RGB", size, colour).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(8):
        _picture(tmp_path / "zebra" / f"{i}.png", (255, 0, 0), (12 + i, 10))
        _picture(tmp_path / "ant" / "deeper" / f"{i}.bmp", (0, 51, 0), (9, 30))
    (tmp_path / "ant" / "notes.txt").write_text("not a picture")
    (tmp_path / ".hidden").mkdir()
    return tmp_path


def test_classes_in_order_and_pictures_as_the_network_takes_them(folder: Path) -> None:
    data = load_data(folder, like=torch.zeros(1, 3, 8, 6))
    assert sum(p.n for p in data.parts) == 16 and data.labelled
    for part in data.parts:
        assert part.blocks[0].inputs[0].dtype == torch.uint8  # kept as bytes
        for batch in part.batches(4):
            (x,), y = batch.inputs, batch.labels
            assert x.shape[1:] == (3, 8, 6) and x.dtype == torch.float32 and y is not None
            expected = torch.tensor([[0.0, 0.2, 0.0], [1.0, 0.0, 0.0]])[y]
            torch.testing.assert_close(x.mean((2, 3)), expected)


def test_normalisation_and_grey(folder: Path) -> None:
    how = Images((8, 8), 3, mean=(0.5, 0.2, 0.0), std=(0.5, 1.0, 2.0))
    (x,) = load_data(folder, preprocess=how).example()
    pixel = x[0, :, 0, 0]
    assert any(torch.allclose(pixel, torch.tensor(p), atol=1e-6) for p in ([-1.0, 0, 0], [1.0, -0.2, 0]))
    (grey,) = load_data(folder, like=torch.zeros(1, 1, 5, 5)).example()
    assert grey.shape == (1, 1, 5, 5)


def test_the_centre_is_kept(tmp_path: Path) -> None:
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 200
    pil.fromarray(pixels).save(tmp_path / "a.png")
    assert (Images((10, 10)).read(tmp_path / "a.png") == 200).all()
    assert (Images((4, 4), crop=0.5).read(tmp_path / "a.png") == 200).all()


def test_parts_given_apart_number_classes_alike(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "apart"
    for part, names in (("train", "abc"), ("val", "bc"), ("test", "abc")):
        for name in names:
            for i in range(3):
                _picture(root / part / name / f"{i}.png", (ord(name), 0, i))
    data = load_data(root, like=torch.zeros(1, 3, 4, 4))
    assert [p.n for p in data.parts] == [9, 6, 9]
    for part in data.parts:
        for batch in part.batches():
            assert batch.labels is not None
            assert torch.equal((batch.inputs[0][:, 0, 0, 0] * 255).round().long() - ord("a"), batch.labels)


@pytest.mark.parametrize("body", [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a" + bytes(20)])
def test_unreadable_pictures_are_named(folder: Path, body: bytes) -> None:
    (folder / "zebra" / "3.png").write_bytes(body)
    with pytest.raises(LessenError, match="not a readable image") as caught:
        load_data(folder, like=torch.zeros(1, 3, 8, 8))
    assert caught.value.where.endswith("3.png")


def test_truncated_and_huge(folder: Path) -> None:
    target = folder / "zebra" / "3.png"
    rng = np.random.default_rng(0)
    pil.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(target)
    target.write_bytes(target.read_bytes()[:4000])
    with pytest.raises(LessenError, match="not a readable image"):
        load_data(folder, like=torch.zeros(1, 3, 8, 8))
    pil.new("1", (20000, 5000)).save(target)
    with pytest.raises(LessenError, match="20000 x 5000 pixels"):
        load_data(folder, like=torch.zeros(1, 3, 8, 8))


def test_what_else_is_refused(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(LessenError, match="no class folders"):
        load_data(tmp_path / "empty", like=torch.zeros(1, 3, 8, 8))
    with pytest.raises(LessenError, match="needs to know the network's one input"):
        load_data(folder)
    with pytest.raises(LessenError, match=r"pictures for a network that takes \(1, 784\)"):
        load_data(folder, like=torch.zeros(1, 784))
