"""Arrays and tensors through the one door: which values and layouts are pictures, and which are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cskd_hf.models.image_loading_cskd import ImageLoadError, load_image
from image_files import gradient, pixels

PICTURE = np.asarray(gradient())


@pytest.mark.parametrize(
    "array",
    [
        PICTURE,
        PICTURE.transpose(2, 0, 1),
        (PICTURE / 255).astype(np.float32),
        (PICTURE / 255).astype(np.float64).transpose(2, 0, 1),
        PICTURE.astype(np.uint16) * 257,
        (PICTURE.astype(np.uint16) * 257).astype(">u2"),
        np.asfortranarray(PICTURE),
        np.dstack([PICTURE, np.full(PICTURE.shape[:2], 255, np.uint8)]),
    ],
    ids=["uint8", "channels first", "float32", "float64", "uint16", "big endian", "Fortran", "opaque alpha"],
)
@pytest.mark.parametrize("make", [np.asarray, torch.tensor])
def test_every_layout_and_type_is_the_same_picture(array, make):
    if make is torch.tensor and not array.dtype.isnative:
        pytest.skip("torch has no such type")
    source = make(array)
    np.testing.assert_array_equal(pixels(load_image(source)), PICTURE)
    np.testing.assert_array_equal(np.asarray(source), array)


def test_grey_and_alpha():
    grey = PICTURE[..., 0]
    for source in (
        grey,
        grey[None],
        grey[..., None],
        torch.from_numpy(grey.copy()),
        torch.from_numpy(grey.copy())[None],
    ):
        np.testing.assert_array_equal(pixels(load_image(source)), np.repeat(grey[..., None], 3, axis=2))
    assert pixels(load_image(np.array([[True, False]])))[0, :, 0].tolist() == [255, 0]
    assert (pixels(load_image(torch.zeros(4, 5, 6))) == 255).all()  # clear, over white


def test_both_ends_could_be_channels():
    """Three rows of three: an array has its channels last, a tensor first."""
    array = np.zeros((3, 5, 3), np.uint8)
    array[..., 0] = 255
    assert pixels(load_image(array)).tolist() == [[[255, 0, 0]] * 5] * 3
    assert load_image(array).size == (5, 3) and load_image(torch.from_numpy(array)).size == (3, 5)
    assert pixels(load_image(torch.from_numpy(array).permute(2, 0, 1))).tolist() == [[[255, 0, 0]] * 5] * 3


def test_tensors_of_a_model():
    tensor = torch.from_numpy(PICTURE.transpose(2, 0, 1) / 255).float().requires_grad_()
    np.testing.assert_array_equal(pixels(load_image(tensor)), PICTURE)
    assert np.abs(pixels(load_image(tensor.bfloat16())) - PICTURE).max() <= 1
    assert np.abs(pixels(load_image(tensor.half())) - PICTURE).max() <= 1


def test_overshoot_of_a_level_is_cut_off():
    assert pixels(load_image(np.array([[-0.003, 1.003]], np.float32)))[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (np.zeros((4, 4, 3), np.int64), "the array is int64; allowed: uint8 with values 0 to 255"),
        (np.zeros((4, 4), complex), "the array is complex128; allowed: uint8"),
        (np.full((4, 4), None), "the array is object; allowed: uint8"),
        (np.full((4, 4, 3), 255.0), "values from 255 to 255; allowed: 0 to 1 .*, or uint8"),
        (np.array([[-1.0, 1.0]]), "values from -1 to 1; allowed: 0 to 1 .not normalised."),
        (np.array([[0.5, np.nan]]), "values from nan to nan"),
        (np.zeros((5, 8, 9), np.uint8), r"shape \(5, 8, 9\); allowed: \(height, width\)"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\); allowed"),
        (np.zeros(7, np.uint8), r"shape \(7,\); allowed"),
        (np.zeros((2, 8, 9, 3), np.uint8), r"of a batch give its images one by one, e.g. list\(batch\)"),
        (torch.zeros(2, 3, 8, 9), "the tensor has shape .* list"),
        (torch.randn(3, 8, 9), "not normalised"),
        (torch.zeros(3, 8, 9, dtype=torch.int32), "the tensor is int32"),
        (torch.zeros(3, 8, 9).to_sparse(), "not readable"),
    ],
)
def test_what_is_no_picture(source, reason):
    with pytest.raises(ImageLoadError, match=reason) as error:
        load_image(source)
    kind = "tensor" if isinstance(source, torch.Tensor) else "array"
    assert error.value.source == f"<{kind}, {source.dtype}, shape {tuple(source.shape)}>"


def test_pixel_limit():
    with pytest.raises(ImageLoadError, match="at most 100"):
        load_image(torch.zeros(3, 48, 32), max_pixels=100)
