"""What the command line says of pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from lessen.data import load_data
from lessen.data.folder import ImageFolder, described, shape_of
from lessen.errors import LessenError


@pytest.fixture
def pictures(tmp_path):
    for label, grey in enumerate((0, 255)):
        (tmp_path / f"class{label}").mkdir()
        for i in range(4):
            Image.fromarray(np.full((20, 30), grey, "uint8")).save(tmp_path / f"class{label}" / f"{i}.png")
    return tmp_path


def test_pictures_are_sized_and_normalised_as_said(pictures):
    data = load_data(described(str(pictures), "mean=0.5,std=0.25", "3x8x10"))
    batch = next(data.test.batches())
    assert batch.inputs[0].shape[1:] == (3, 8, 10)
    wanted = torch.where(batch.labels == 0, -2.0, 2.0).view(-1, 1, 1, 1)
    torch.testing.assert_close(batch.inputs[0], wanted.expand_as(batch.inputs[0]))


def test_the_network_tells_the_shape_where_it_can(pictures):
    data = load_data(ImageFolder(str(pictures), crop=0.5), like=torch.zeros(1, 1, 6, 6))
    assert next(data.test.batches()).inputs[0].shape[1:] == (1, 6, 6)


def test_without_a_shape_it_is_asked_for(pictures):
    with pytest.raises(LessenError, match="--input-shape"):
        load_data(ImageFolder(str(pictures)))


@pytest.mark.parametrize(
    "text", ["mean=a", "std=0", "crop=2", "crop=0.1:0.2", "size=3", "mean=nan", "mean", "mean=1:2"]
)
def test_options_that_cannot_be_read(pictures, text):
    with pytest.raises(LessenError, match="--images"):
        described(str(pictures), text, "3x8x8")


def test_values_that_do_not_fit_the_channels(pictures):
    with pytest.raises(LessenError, match="3 values of mean for 1 channels"):
        load_data(described(str(pictures), "mean=1:2:3", "1x8x8"))


@pytest.mark.parametrize("text", ["", "3x", "axb", "0x3", "-1x3", "99999999x9999", "3x2\u00b2"])
def test_shapes_that_cannot_be_read(text):
    with pytest.raises(LessenError, match="--input-shape"):
        shape_of(text)


def test_other_data_stay_as_they_are():
    assert described("data.npz") == "data.npz"
