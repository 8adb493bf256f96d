"""What the one door makes of colour profiles, against the formulas that they stand for."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cskd_hf.models.image_loading_cskd import load_image
from image_files import (
    ADOBE_RGB,
    DISPLAY_P3,
    SRGB,
    encode,
    gradient,
    grey_profile,
    ink_profile,
    matrix_profile,
    pixels,
)

INKS = {(0, 0, 0, 0): (100, 0, 0), (1, 0, 0, 0): (97, -22, 94)}  # paper, and a cyan ink that is really yellow


def in_srgb(colours: np.ndarray, primaries: tuple, gamma: float | None) -> np.ndarray:
    """Levels of a matrix profile as levels of sRGB (IEC 61966-2-1), clipped to its gamut."""
    values = colours / 255
    linear = values**gamma if gamma else np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    linear = (linear @ np.array(primaries) @ np.linalg.inv(np.array(SRGB))).clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize(
    ("primaries", "gamma"), [(ADOBE_RGB, 563 / 256), (DISPLAY_P3, None)], ids=["Adobe RGB", "Display P3"]
)
@pytest.mark.parametrize("image_format", ["PNG", "TIFF", "WEBP"])
def test_wide_gamut_becomes_srgb(primaries, gamma, image_format):
    rng = np.random.default_rng(0)
    colours = rng.integers(60, 200, (8, 8, 3))  # inside the gamut of sRGB or close to it
    options = {"lossless": True} if image_format == "WEBP" else {}
    data = encode(
        Image.fromarray(colours.astype(np.uint8)),
        image_format,
        icc_profile=matrix_profile(primaries, gamma),
        **options,
    )
    loaded = pixels(load_image(data))
    expected = in_srgb(colours, primaries, gamma)
    assert np.abs(loaded - expected).max() <= 2
    assert np.abs(expected - colours).max() > 15  # without the profile the test would see it


def test_profile_of_srgb_itself_changes_nothing():
    data = encode(gradient(), icc_profile=matrix_profile(SRGB))
    np.testing.assert_array_equal(pixels(load_image(data)), pixels(gradient()))


def test_profile_a_little_beside_srgb_is_applied():
    """The curve of gamma 2.2 is taken for that of sRGB by some; dark levels tell them apart."""
    loaded = pixels(load_image(encode(gradient(), icc_profile=matrix_profile(SRGB, gamma=2.2))))
    expected = in_srgb(pixels(gradient()), SRGB, 2.2)
    assert np.abs(loaded - expected).max() <= 2
    assert 4 < np.abs(expected - pixels(gradient())).max() < 10


def test_profile_of_grey():
    grey = Image.fromarray(np.array([[0, 64, 128, 255]], np.uint8))
    loaded = pixels(load_image(encode(grey, icc_profile=grey_profile(gamma=1.0))))
    assert loaded[0, :, 0].tolist() == pytest.approx([0, 137, 188, 255], abs=1)  # as below
    assert np.ptp(loaded, axis=2).max() <= 1
    clear = grey.convert("LA")
    clear.putalpha(Image.fromarray(np.array([[255, 255, 255, 0]], np.uint8)))
    loaded = pixels(load_image(encode(clear, icc_profile=grey_profile(gamma=1.0))))
    assert loaded[0, :, 0].tolist() == pytest.approx([0, 137, 188, 255], abs=1)
    # Of colours it says nothing.
    loaded = pixels(load_image(encode(gradient(), icc_profile=grey_profile(gamma=1.0))))
    np.testing.assert_array_equal(loaded, pixels(gradient()))


def test_grey_picture_with_a_colour_profile():
    grey = Image.fromarray(np.array([[0, 64, 128, 255]], np.uint8))
    loaded = pixels(load_image(encode(grey, icc_profile=matrix_profile(SRGB, gamma=1.0))))
    assert loaded[0, :, 0].tolist() == pytest.approx([0, 137, 188, 255], abs=1)  # 12.92 and the root of IEC 61966-2-1
    assert np.ptp(loaded, axis=2).max() <= 1


@pytest.mark.parametrize("image_format", ["JPEG", "TIFF"])
def test_inks_by_their_profile(image_format):
    """A JPEG of Adobe's stores inks the other way round, a TIFF does not."""
    picture = Image.new("CMYK", (16, 16))
    picture.paste((255, 0, 0, 0), (8, 0, 16, 16))
    options = {"quality": 100, "subsampling": 0} if image_format == "JPEG" else {}
    loaded = pixels(load_image(encode(picture, image_format, icc_profile=ink_profile(INKS), **options)))
    assert loaded[8, 2].min() >= 250
    assert loaded[8, 13, :2].min() >= 240 and loaded[8, 13, 2] <= 60
    plain = pixels(load_image(encode(picture, image_format, **options)))
    assert plain[8, 13, 0] <= 10 and plain[8, 13, 2] >= 240  # without it, cyan


def test_profile_of_inks_on_a_picture_without():
    data = encode(gradient(), icc_profile=ink_profile(INKS))
    np.testing.assert_array_equal(pixels(load_image(data)), pixels(gradient()))
