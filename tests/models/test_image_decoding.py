"""What the one door makes of orientation, depth, alpha, colour profiles and frames."""

from __future__ import annotations

import io
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile, features

from cskd_hf.models.image_loading_cskd import ImageLoadError, load_image
from hostile_images import exif, stored
from image_files import encode, gradient, pixels, png, png_chunk, tiff


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


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(image_format, orientation):
    if image_format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    best = {"quality": 100, "subsampling": 0}
    options = {"JPEG": best, "WEBP": {"lossless": True}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}}
    data = encode(
        stored(gradient(), orientation), image_format, exif=exif(orientation), **options.get(image_format, {})
    )
    loaded = load_image(data)
    assert np.abs(pixels(loaded) - pixels(gradient())).max() <= (6 if image_format in ("JPEG", "AVIF") else 0)
    assert loaded.getexif().get(0x0112, 1) == 1  # so that nobody turns it again


def test_opened_pil_image_is_turned_as_its_file_is():
    data = encode(gradient(), "JPEG", exif=exif(6))
    opened = load_image(Image.open(io.BytesIO(data)))
    assert opened.size == (32, 48)
    np.testing.assert_array_equal(pixels(opened), pixels(load_image(data)))


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("damaged", [b"Exif\0\0II*\0garbage", b"Exif\0\0nM\0*\0\0\0\x08", b"Exif\0\0MM\0*\0\0\0"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_exif_does_not_cost_the_picture(image_format, damaged):
    assert load_image(encode(gradient(), image_format, exif=damaged)).size == (48, 32)


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
    # A resampling filter overshoots a little; a maximum between 1 and 2 could be a bright picture or a black one.
    assert pixels(load_image(Image.fromarray(np.array([[-0.002, 1.003]], np.float32))))[0, :, 0].tolist() == [0, 255]
    for bad in ([[0.0, np.nan]], [[-1.0, 5.0]], [[0.0, 256.0]], [[0.0, 1.5]], [[0.0, np.inf]]):
        with pytest.raises(ImageLoadError, match="allowed: 0 to 1, or 0 to 255 with some above 2"):
            load_image(Image.fromarray(np.array(bad, np.float32)))
    with pytest.raises(ImageLoadError, match="allowed: 0 to 65535"):
        load_image(Image.fromarray(np.array([[0, 70000]], np.int32)))


def test_16_bit_colours():
    values = np.array([[[0, 32768, 65535], [257, 300, 40000]]], dtype=np.uint16)
    rows = b"\0" + values.astype(">u2").tobytes()
    for data in (png(2, 1, rows, depth=16), tiff(values)):
        np.testing.assert_array_equal(pixels(load_image(data)), values >> 8)  # within one level of round(v / 257)
    inks = np.concatenate([values, 0 * values[..., :1]], axis=-1)
    np.testing.assert_array_equal(pixels(load_image(tiff(inks, photometric=5))), 255 - (values >> 8))
    with pytest.raises(ImageLoadError, match="16 bits a channel in separate planes"):  # of which Pillow makes noise
        load_image(tiff(values, planar=True))
    coarse = (values >> 8).astype(np.uint8)
    np.testing.assert_array_equal(pixels(load_image(tiff(coarse, planar=True))), coarse)


def test_grey_tiff_of_rare_kinds():
    values = np.array([[0, 257, 65535]], dtype=np.uint16)
    assert pixels(load_image(tiff(values)))[0, :, 0].tolist() == [0, 1, 255]
    assert pixels(load_image(tiff(values, photometric=0)))[0, :, 0].tolist() == [255, 254, 0]  # white is zero
    twelve = np.frombuffer(b"\xff\xf8\x00", np.uint8)  # 4095, 2048
    for source in (tiff(twelve, bits=12), Image.open(io.BytesIO(tiff(twelve, bits=12)))):
        assert pixels(load_image(source))[0, :, 0].tolist() == [255, 128]
    floats = np.array([[0, 0.5, 1]], np.float32)
    assert pixels(load_image(tiff(floats)))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(("depth", "rows"), [(1, b"\0\x40"), (2, b"\0\x1b"), (4, b"\0\x01\x23")])
def test_transparent_value_of_few_bits(depth, rows):
    data = png(4, 1, rows, depth=depth, colour=0, before=png_chunk(b"tRNS", b"\0\1"))
    shown = pixels(load_image(data))[0, :, 0]
    assert shown[1] == 255 and (shown[[0, 2]] < 255).all()


def test_transparent_16_bit_colour():
    values = np.array([[[0x1234, 0x2345, 0x3456], [300, 300, 300]]], dtype=np.uint16)
    clear = png_chunk(b"tRNS", values[0, 0].astype(">u2").tobytes())
    data = png(2, 1, b"\0" + values.astype(">u2").tobytes(), depth=16, before=clear)
    assert pixels(load_image(data))[0].tolist() == [[255] * 3, [1] * 3]


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
    veiled = palette.convert("PA")
    veiled.putalpha(Image.fromarray(np.array([[0, 128]], np.uint8)))
    assert pixels(load_image(veiled))[0].tolist() == [[255, 255, 255], [127, 127, 255]]
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
    red = Image.new("LAB", (2, 2), (136, 208, 195))  # L 53, a 80, b 67
    assert np.abs(pixels(load_image(encode(red, "TIFF"))) - [255, 0, 0]).max() <= 12


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
    veil = encode(Image.new("RGBA", (4, 4), (255, 0, 0, 128)), icc_profile=swapped_profile())
    assert pixels(load_image(veil))[0, 0, 2] > 220 > 170 > pixels(load_image(veil))[0, 0, 0]


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


# Files that break off


@pytest.mark.parametrize(
    ("image_format", "options"),
    [
        ("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("GIF", {}), ("BMP", {}), ("TIFF", {}), ("TGA", {}),
        ("MPO", {"save_all": True, "append_images": [gradient()]}),
    ],
)  # fmt: skip
def test_truncated_file_is_taken_on_request(image_format, options, monkeypatch):
    picture = gradient(320, 240)
    data = encode(picture, image_format, **options)
    cut = data[: len(data) * 3 // 4]
    with pytest.raises(ImageLoadError):
        load_image(cut)
    shown = pixels(load_image(cut, allow_truncated=True))
    first = slice(-40, None) if image_format in ("BMP", "TGA") else slice(40)  # these two begin with the lowest row
    assert np.abs(shown[first] - pixels(load_image(data))[first]).mean() < 12
    np.testing.assert_array_equal(pixels(load_image(data, allow_truncated=True)), pixels(load_image(data)))
    if image_format in ("JPEG", "MPO", "PNG"):  # the rest as Pillow shows it to those who change its setting
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        np.testing.assert_array_equal(shown, np.asarray(Image.open(io.BytesIO(cut))))


def test_truncated_file_of_which_nothing_shows():
    data = encode(gradient(320, 240), "PNG")
    with pytest.raises(ImageLoadError, match="breaks off before anything of the picture"):
        load_image(data[: data.index(b"IDAT") + 6], allow_truncated=True)
    data = encode(Image.new("L", (320, 240), 77), "JPEG", optimize=True)
    with pytest.raises(ImageLoadError, match="breaks off before anything of the picture"):
        load_image(data[: data.index(b"\xff\xda") + 10], allow_truncated=True)  # after the header of its scan
    with pytest.raises(ImageLoadError):
        load_image(encode(gradient(), "WEBP")[:-200], allow_truncated=True)
    with pytest.raises(ImageLoadError, match="empty"):
        load_image(b"", allow_truncated=True)


def test_truncated_and_whole_files_in_threads():
    """A setting of Pillow's would leak from the calls that allow a cut file into those that do not."""
    data = encode(gradient(320, 240), "JPEG")
    cut = data[: len(data) * 3 // 4]

    def read(number: int) -> bool:
        try:
            load_image(cut, allow_truncated=number % 2 == 0)
        except ImageLoadError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, range(200))) == [number % 2 == 0 for number in range(200)]
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


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
