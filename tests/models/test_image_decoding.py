"""What the one door makes of orientation, depth, alpha, colour profiles and frames."""

from __future__ import annotations

import io
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from cskd_hf.models.image_loading_cskd import ImageLoadError, load_image
from image_files import encode, gradient, pixels, png_chunk


def profile_tags() -> tuple[bytearray, dict[bytes, slice]]:
    """An sRGB profile and where its tags lie in it."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {}
    for i in range(struct.unpack(">I", profile[128:132])[0]):
        name, offset, size = struct.unpack(">4sII", profile[132 + 12 * i : 144 + 12 * i])
        tags[name] = slice(offset, offset + size)
    return profile, tags


def swapped_profile() -> bytes:
    """A valid profile whose red and blue primaries have changed places: applying it must turn red to blue."""
    profile, tags = profile_tags()
    red, blue = bytes(profile[tags[b"rXYZ"]]), bytes(profile[tags[b"bXYZ"]])
    profile[tags[b"rXYZ"]], profile[tags[b"bXYZ"]] = blue, red
    return bytes(profile)


# Orientation


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(image_format, orientation):
    stored_as = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = gradient() if orientation == 1 else gradient().transpose(stored_as[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(image_format, {})
    loaded = load_image(encode(stored, image_format, exif=exif.tobytes(), **options))
    assert np.abs(pixels(loaded) - pixels(gradient())).max() <= (6 if image_format == "JPEG" else 0)
    assert loaded.getexif().get(0x0112, 1) == 1  # so that nobody turns it again


def test_opened_pil_image_is_turned_as_its_file_is():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(gradient(), "JPEG", exif=exif.tobytes())
    opened = load_image(Image.open(io.BytesIO(data)))
    assert opened.size == (32, 48)
    np.testing.assert_array_equal(pixels(opened), pixels(load_image(data)))


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("exif", [b"Exif\0\0II*\0garbage", b"Exif\0\0nM\0*\0\0\0\x08", b"Exif\0\0MM\0*\0\0\0"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_exif_does_not_cost_the_picture(image_format, exif):
    assert load_image(encode(gradient(), image_format, exif=exif)).size == (48, 32)


@pytest.mark.parametrize("photo", ["Landscape", "Portrait"])
def test_real_photographs_in_all_orientations(photo):
    root = os.environ.get("CSKD_HF_DATA")
    folder = Path(root or "") / "edge_images" / "exif_orientation"
    if not root or not folder.is_dir():
        pytest.skip("CSKD_HF_DATA does not name a folder with edge_images/exif_orientation")
    loaded = [load_image(folder / f"{photo}_{orientation}.jpg") for orientation in range(9)]
    # A number is written across each file, so small copies are compared, and by their mean.
    small = [np.asarray(image.resize((60, 60), Image.Resampling.BOX)).astype(int) for image in loaded]
    for orientation, (image, copy) in enumerate(zip(loaded, small)):
        assert image.size == ((1800, 1200) if photo == "Landscape" else (1200, 1800)), orientation
        assert np.abs(copy - small[1]).mean() < 4, orientation
    # The bound is tight enough to see the least wrong turn.
    assert min(np.abs(small[1][::-1] - small[1]).mean(), np.abs(small[1][:, ::-1] - small[1]).mean()) > 12


# Depth, alpha, colour


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_16_bit_is_scaled_not_clipped(image_format):
    values = np.array([[0, 128, 129, 257, 300, 30000], [32768, 40000, 65000, 65407, 65408, 65535]], dtype=np.uint16)
    loaded = pixels(load_image(encode(Image.fromarray(values), image_format)))
    np.testing.assert_array_equal(loaded[..., 0], np.rint(values / 257))
    np.testing.assert_array_equal(loaded[..., 0], loaded[..., 2])


def test_modes_i_and_f():
    values = np.array([[0, 257, 65535]], dtype=np.int32)
    assert pixels(load_image(Image.fromarray(values)))[0, :, 0].tolist() == [0, 1, 255]
    assert pixels(load_image(Image.fromarray(values.astype(np.float32) / 65535)))[0, :, 0].tolist() == [0, 1, 255]
    assert pixels(load_image(Image.fromarray(np.array([[0, 128, 255]], np.float32))))[0, :, 0].tolist() == [
        0,
        128,
        255,
    ]
    for bad in ([[0.0, np.nan]], [[-1.0, 5.0]], [[0.0, 256.0]]):
        with pytest.raises(ImageLoadError, match="allowed: 0 to 255"):
            load_image(Image.fromarray(np.array(bad, np.float32)))
    with pytest.raises(ImageLoadError, match="allowed: 0 to 65535"):
        load_image(Image.fromarray(np.array([[0, 70000]], np.int32)))


def test_transparent_16_bit_value_becomes_white():
    values = np.array([[0, 1000, 65535]], dtype=np.uint16)
    data = bytearray(encode(Image.fromarray(values)))
    at = data.index(b"IDAT") - 4
    data[at:at] = png_chunk(b"tRNS", struct.pack(">H", 1000))
    assert pixels(load_image(bytes(data)))[0, :, 0].tolist() == [0, 255, 255]


def test_alpha_is_composited_over_white():
    red = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    red.putpixel((1, 0), (255, 0, 0, 128))
    grey = Image.new("LA", (2, 1), (0, 0))
    grey.putpixel((1, 0), (0, 128))
    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putpixel((1, 0), 1)
    assert pixels(load_image(encode(red)))[0].tolist() == [[255, 255, 255], [255, 127, 127]]
    assert pixels(load_image(encode(grey)))[0].tolist() == [[255, 255, 255], [127, 127, 127]]
    assert pixels(load_image(encode(palette, transparency=0)))[0].tolist() == [[255, 255, 255], [0, 0, 255]]
    assert pixels(load_image(encode(palette, transparency=bytes([0, 128]))))[0].tolist() == [
        [255] * 3,
        [127, 127, 255],
    ]
    assert pixels(load_image(red.convert("RGBa")))[0].tolist() == [[255, 255, 255], [255, 127, 127]]
    assert pixels(load_image(grey.convert("La")))[0].tolist() == [[255, 255, 255], [127, 127, 127]]
    assert pixels(load_image(palette.convert("PA")))[0].tolist() == [[255, 0, 0], [0, 0, 255]]
    opaque = Image.new("RGB", (2, 1), (10, 20, 30))
    opaque.putpixel((1, 0), (1, 2, 3))
    assert pixels(load_image(encode(opaque, transparency=(1, 2, 3))))[0].tolist() == [[10, 20, 30], [255, 255, 255]]


@pytest.mark.parametrize("mode", ["1", "L", "P", "HSV", "YCbCr", "CMYK", "RGBX"])
def test_other_modes_convert(mode):
    loaded = pixels(load_image(gradient().convert(mode)))
    np.testing.assert_array_equal(loaded, pixels(gradient().convert(mode).convert("RGB")))


def test_lab():
    lab = Image.new("LAB", (2, 2), (255, 128, 128))
    assert np.abs(pixels(load_image(lab)) - 255).max() <= 1


def test_cmyk_jpeg():
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert np.abs(pixels(load_image(encode(red, "JPEG", quality=100))) - [255, 0, 0]).max() <= 3


def test_icc_profile_is_applied():
    red = encode(Image.new("RGB", (4, 4), (255, 0, 0)), icc_profile=swapped_profile())
    assert pixels(load_image(red))[0, 0, 2] > 200 > 60 > pixels(load_image(red))[0, 0, 0]


def test_icc_profile_is_applied_below_alpha():
    half = encode(Image.new("RGBA", (4, 4), (255, 0, 0, 0)), icc_profile=swapped_profile())
    assert (pixels(load_image(half)) == 255).all()
    full = encode(Image.new("RGBA", (4, 4), (255, 0, 0, 255)), icc_profile=swapped_profile())
    assert pixels(load_image(full))[0, 0, 2] > 200


def test_profile_within_two_levels_of_srgb_leaves_pixels_alone():
    profile, tags = profile_tags()
    profile[tags[b"gXYZ"].start + 11] ^= 8  # one of the many roundings of sRGB that are in circulation
    converted = ImageCms.profileToProfile(gradient(), io.BytesIO(profile), ImageCms.createProfile("sRGB"))
    assert 1 <= np.abs(pixels(converted) - pixels(gradient())).max() <= 2
    loaded = load_image(encode(gradient(), icc_profile=bytes(profile)))
    np.testing.assert_array_equal(pixels(loaded), pixels(gradient()))


@pytest.mark.parametrize("profile", [b"no profile", swapped_profile()[:300], b"\0" * 200])
def test_broken_profile_falls_back_to_the_plain_conversion(profile):
    np.testing.assert_array_equal(pixels(load_image(encode(gradient(), icc_profile=profile))), pixels(gradient()))


def test_profile_of_another_colour_space_is_not_applied():
    np.testing.assert_array_equal(
        pixels(load_image(encode(gradient().convert("CMYK"), "TIFF", icc_profile=swapped_profile()))),
        pixels(gradient().convert("CMYK").convert("RGB")),
    )


@pytest.mark.parametrize("image_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_of_an_animation(image_format):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if image_format == "WEBP" else {}
    data = encode(frames[0], image_format, save_all=True, append_images=frames[1:], **options)
    assert pixels(load_image(data))[0, 0].tolist() == [255, 0, 0]


# Reduced-scale decoding


@pytest.mark.parametrize(
    ("target", "size"),
    # At target 100 the short side must stay at 200 or more: 640 / 2 does, 640 / 4 does not.
    [(None, (800, 640)), (100, (400, 320)), (160, (400, 320)), (161, (800, 640)), (10, (100, 80))],
)
def test_jpeg_is_decoded_small_but_never_below_twice_the_target(target, size):
    data = encode(gradient(800, 640), "JPEG", quality=95)
    loaded = load_image(data, target_size=target)
    assert loaded.size == size
    if target is not None:
        assert min(loaded.size) >= 2 * target
    full = load_image(data).resize((50, 40), Image.Resampling.BOX)
    assert np.abs(pixels(loaded.resize((50, 40), Image.Resampling.BOX)) - pixels(full)).mean() < 1


def test_reduced_scale_leaves_the_caller_s_image_alone():
    opened = Image.open(io.BytesIO(encode(gradient(800, 640), "JPEG")))
    assert load_image(opened, target_size=10).size == (800, 640)
    assert opened.size == (800, 640)


def test_threads_agree():
    files = [encode(gradient(48 + i, 32), "JPEG", icc_profile=swapped_profile()) for i in range(8)]
    expected = [pixels(load_image(data)) for data in files]
    with ThreadPoolExecutor(8) as pool:
        for index, image in enumerate(pool.map(load_image, files * 10)):
            np.testing.assert_array_equal(pixels(image), expected[index % 8])
