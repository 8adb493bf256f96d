"""The one door for images: its properties, on files made here and on real photographs where there are any."""

from __future__ import annotations

import base64
import io
import os
import pickle
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile

from cskd_hf.models import image_loading_cskd
from cskd_hf.models.image_loading_cskd import ImageLoadError, load_image


def gradient(width: int = 48, height: int = 32) -> Image.Image:
    """A picture without symmetry, so that each wrong turn of it shows."""
    y, x = np.mgrid[0:height, 0:width]
    array = np.stack([x * 255 // (width - 1), y * 255 // (height - 1), (x + 2 * y) % 64], axis=-1)
    return Image.fromarray(array.astype(np.uint8))


def encode(image: Image.Image, image_format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header_only(width: int, height: int) -> bytes:
    """A valid PNG that claims a size and holds hardly a pixel: what a decompression bomb looks like."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(b"\0" * 100)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def swapped_profile() -> bytes:
    """A valid sRGB-like profile whose red and blue primaries change places: applying it must change red to blue."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {}
    for i in range(struct.unpack(">I", profile[128:132])[0]):
        name, offset, size = struct.unpack(">4sII", profile[132 + 12 * i : 144 + 12 * i])
        tags[name] = slice(offset, offset + size)
    red, blue = bytes(profile[tags[b"rXYZ"]]), bytes(profile[tags[b"bXYZ"]])
    profile[tags[b"rXYZ"]], profile[tags[b"bXYZ"]] = blue, red
    return bytes(profile)


# Sources


def test_every_kind_of_source_gives_the_same_picture(tmp_path):
    image = gradient()
    data = encode(image)
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    text = base64.b64encode(data).decode()
    sources = [
        path,
        str(path),
        data,
        bytearray(data),
        io.BytesIO(data),
        image,
        np.asarray(image),
        np.asarray(image)[:, ::-1][:, ::-1],
        {"bytes": data, "path": None},
        {"bytes": None, "path": str(path)},
        {"bytes": data, "path": "gone.png"},
        f"data:image/png;base64,{text}",
        text,
    ]
    for source in sources:
        np.testing.assert_array_equal(pixels(load_image(source)), pixels(image))


def test_file_object_is_read_from_its_start_and_left_open(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(encode(gradient()))
    with path.open("rb") as file:
        file.seek(7)
        load_image(file)
        assert not file.closed


def test_result_shares_nothing_with_the_source():
    image, array = gradient(), np.asarray(gradient()).copy()
    for source in (image, array):
        load_image(source).paste((1, 2, 3), (0, 0, 48, 32))
    np.testing.assert_array_equal(pixels(image), pixels(gradient()))
    np.testing.assert_array_equal(array, pixels(gradient()))


def test_grey_and_alpha_arrays():
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for source in (grey, grey[:, :, None]):
        np.testing.assert_array_equal(pixels(load_image(source)), np.repeat(grey[:, :, None], 3, axis=2))
    clear = np.zeros((3, 4, 4), dtype=np.uint8)
    assert (pixels(load_image(clear)) == 255).all()


@pytest.fixture
def server():
    """A loopback web server; its `body` and `headers` say what it answers."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path.startswith("/missing"):
                return self.send_error(404)
            self.send_response(200)
            for name, value in self.server.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(self.server.body)

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.body, server.headers = encode(gradient()), {}
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_url(server):
    np.testing.assert_array_equal(pixels(load_image(server.url + "/a.png")), pixels(gradient()))


def test_url_errors_name_the_address_without_its_secrets(server):
    with pytest.raises(ImageLoadError, match="404") as error:
        load_image(server.url + "/missing.png?token=secret")
    assert error.value.source == repr(server.url + "/missing.png")
    assert "secret" not in str(error.value)


def test_download_stops_at_the_byte_limit(server, monkeypatch):
    monkeypatch.setattr(image_loading_cskd, "MAX_DOWNLOAD_BYTES", 1000)
    server.body = b"x" * 100_000
    with pytest.raises(ImageLoadError, match="limit of 1000 bytes"):
        load_image(server.url)


def test_download_that_breaks_off(server):
    server.headers = {"Content-Length": str(len(server.body) + 10)}
    with pytest.raises(ImageLoadError, match="broke off|IncompleteRead"):
        load_image(server.url)


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


@pytest.mark.parametrize("exif", [b"Exif\0\0II*\0garbage", b"Exif\0\0" + b"\xff" * 40])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_exif_does_not_cost_the_picture(exif):
    assert load_image(encode(gradient(), "JPEG", exif=exif)).size == (48, 32)


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


def test_srgb_profile_leaves_pixels_alone():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    np.testing.assert_array_equal(pixels(load_image(encode(gradient(), icc_profile=profile))), pixels(gradient()))


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


# Limits


def test_pixel_limit_is_checked_before_decoding():
    data = png_header_only(1000, 1000)
    with pytest.raises(ImageLoadError, match=r"1000x1000 = 1000000 pixels, allowed: at most 999999"):
        load_image(data, max_pixels=999_999)
    with pytest.raises(ImageLoadError, match="damaged"):  # the same file passes a larger limit, and fails in decoding
        load_image(data, max_pixels=1_000_000)
    with pytest.raises(ImageLoadError, match="at most 100"):
        load_image(gradient(), max_pixels=100)


def test_own_limit_replaces_that_of_pillow(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # 48 x 32 pixels are a "bomb" now
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for image_format in ("PNG", "JPEG", "BMP", "PPM"):
            assert load_image(encode(gradient(), image_format)).size == (48, 32)
        with pytest.raises(ImageLoadError, match="too many pixels|Bomb"):  # this reader also checks by itself
            load_image(encode(gradient(), "WEBP"))


def test_huge_header():
    with pytest.raises(ImageLoadError, match="pixels, allowed: at most 200000000"):
        load_image(png_header_only(60000, 60000))


def test_no_global_flag_changes():
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    load_image(encode(gradient(), "JPEG"), target_size=2)
    with pytest.raises(ImageLoadError):
        load_image(png_header_only(60000, 60000))
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES) == before


# Errors


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_truncated_file(image_format, tmp_path):
    data = encode(gradient(), image_format)
    path = tmp_path / f"cut.{image_format.lower()}"
    for keep in (5, len(data) // 2):
        path.write_bytes(data[:keep])
        with pytest.raises(ImageLoadError) as error:
            load_image(path)
        assert path.name in str(error.value) and error.value.reason in str(error.value)


def test_every_cut_gives_a_picture_or_the_one_error():
    for image_format in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "ICO"):
        data = encode(gradient(), image_format)
        for keep in range(0, len(data), max(1, len(data) // 60)):
            try:
                assert load_image(data[:keep]).mode == "RGB"
            except ImageLoadError:
                pass


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (b"", "empty"),
        (b"this is text, not a picture", "not an image"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "pillow-heif"),
        ("no/such/file.jpg", "no such file"),
        (3.5, "type float"),
        (None, "type NoneType"),
        ({"image": "a.jpg"}, "neither 'bytes' nor 'path'"),
        (io.StringIO("text"), "mode 'rb'"),
        (np.zeros((4, 4, 3), np.float32), "allowed: uint8"),
        (np.zeros((3, 8, 9), np.uint8), r"allowed: \(height, width\)"),
        (np.zeros((0, 4, 3), np.uint8), r"allowed: \(height, width\)"),
        ("data:image/png;base64", "no comma"),
        ("data:image/png;base64,%%%%", "base64 data is broken"),
        ("bad\0name.jpg", "null"),
    ],
)
def test_unusable_sources(source, reason):
    with pytest.raises(ImageLoadError, match=reason) as error:
        load_image(source)
    assert error.value.source.isprintable() and error.value.source in str(error.value)


def test_directory_pipe_and_ghostscript(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, reason in ((tmp_path, "directory"), (tmp_path / "pipe", "regular file")):
        with pytest.raises(ImageLoadError, match=reason):
            load_image(path)
    with pytest.raises(ImageLoadError, match="not an image"):
        load_image(encode(gradient(), "EPS"))


def test_source_name_is_short_and_holds_no_data():
    data = b"SECRET" * 100
    text = base64.b64encode(data).decode()
    for source in (
        data,
        {"bytes": data},
        io.BytesIO(data),
        text,
        f"data:image/png;base64,{text}",
        "x" * 5000 + ".jpg",
    ):
        with pytest.raises(ImageLoadError) as error:
            load_image(source)
        assert len(error.value.source) < 220
        assert "SECRET" not in str(error.value) and text[:20] not in str(error.value)


def test_error_survives_pickling_and_data_loader_workers():
    error = pickle.loads(pickle.dumps(ImageLoadError("'a.jpg'", "it is empty")))
    assert (error.source, error.reason) == ("'a.jpg'", "it is empty")
    assert str(ImageLoadError("Caught ImageLoadError in worker 0")) == "Caught ImageLoadError in worker 0"
    assert issubclass(ImageLoadError, ValueError)


@pytest.mark.parametrize(
    "setting", [{"target_size": 0}, {"target_size": 2.5}, {"max_pixels": -1}, {"target_size": True}]
)
def test_bad_settings_are_the_caller_s_error(setting):
    with pytest.raises(ValueError, match="allowed: an integer of at least 1") as error:
        load_image(gradient(), **setting)
    assert not isinstance(error.value, ImageLoadError)


def test_threads_agree():
    files = [encode(gradient(48 + i, 32), "JPEG", icc_profile=swapped_profile()) for i in range(8)]
    expected = [pixels(load_image(data)) for data in files]
    with ThreadPoolExecutor(8) as pool:
        for index, image in enumerate(pool.map(load_image, files * 10)):
            np.testing.assert_array_equal(pixels(image), expected[index % 8])


def test_file_stands_alone():
    """The Hub receives this file beside the model's, so it must run with nothing of the package."""
    code = (
        "import importlib.util, sys; spec = importlib.util.spec_from_file_location('door', sys.argv[1]); "
        "door = importlib.util.module_from_spec(spec); spec.loader.exec_module(door); "
        "assert not {'torch', 'transformers', 'cskd_hf'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, image_loading_cskd.__file__], check=True)
