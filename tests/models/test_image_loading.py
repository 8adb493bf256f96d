"""The one door for images: sources, limits and errors. `test_image_decoding` looks at the pixels."""

from __future__ import annotations

import base64
import io
import os
import pickle
import shutil
import struct
import subprocess
import sys
import threading
import warnings
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image, ImageFile

from cskd_hf.models import image_loading_cskd, image_sources_cskd
from cskd_hf.models.image_loading_cskd import ImageLoadError, load_image, read_header
from image_files import encode, gradient, pixels, png, tiff


def png_header_only(width: int, height: int) -> bytes:
    """A valid PNG that claims a size and holds hardly a pixel: what a decompression bomb looks like."""
    return png(width, height, b"\0" * 100)


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


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "TIFF", "BMP", "MPO"])
def test_result_is_a_plain_picture_that_no_longer_needs_its_file(image_format, tmp_path):
    path = tmp_path / "picture"
    tags = Image.Exif()
    tags[0x0112] = 1
    gradient().save(path, image_format, exif=tags, dpi=(72, 72))
    image = load_image(path)
    path.unlink()
    assert type(image) is Image.Image and image.format is None
    assert not image.info and not image.getexif()
    image.paste((1, 2, 3), (0, 0, 48, 32))
    assert (pixels(image) == (1, 2, 3)).all()


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
    monkeypatch.setattr(image_sources_cskd, "MAX_DOWNLOAD_BYTES", 1000)
    server.body = b"x" * 100_000
    with pytest.raises(ImageLoadError, match="limit of 1000 bytes"):
        load_image(server.url)


def test_download_that_breaks_off(server):
    server.headers = {"Content-Length": str(len(server.body) + 10)}
    with pytest.raises(ImageLoadError, match="broke off|IncompleteRead"):
        load_image(server.url)


# Limits


def test_pixel_limit_is_checked_before_decoding():
    data = png_header_only(1000, 1000)
    with pytest.raises(ImageLoadError, match=r"1000x1000 = 1000000 pixels, allowed: at most 999999"):
        load_image(data, max_pixels=999_999)
    with pytest.raises(ImageLoadError, match="damaged"):  # the same file passes a larger limit, and fails in decoding
        load_image(data, max_pixels=1_000_000)
    with pytest.raises(ImageLoadError, match="at most 100"):
        load_image(gradient(), max_pixels=100)


@pytest.mark.filterwarnings("ignore:Image was not the expected size")
def test_pixel_limit_holds_for_an_icon_larger_than_its_header_says():
    inside = encode(gradient(48, 32))
    icon = struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(inside), 22) + inside
    assert load_image(icon).size == (48, 32)
    with pytest.raises(ImageLoadError, match="48x32 = 1536 pixels, allowed: at most 1000"):
        load_image(icon, max_pixels=1000)


def test_own_limit_replaces_that_of_pillow(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # 48 x 32 pixels are a "bomb" now
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for image_format in ("PNG", "JPEG", "BMP", "PPM"):
            assert load_image(encode(gradient(), image_format)).size == (48, 32)
        if int(PIL.__version__.split(".")[0]) >= 13:  # since then this reader also checks by itself
            with pytest.raises(ImageLoadError, match="too many pixels|Bomb"):
                load_image(encode(gradient(), "WEBP"))
    with pytest.raises(ImageLoadError, match="too many pixels for Pillow's own limit on this format"):
        load_image(encode(gradient(), "ICO"))


def test_memory_that_does_not_suffice(monkeypatch):
    def refuse(*args, **options):
        raise MemoryError

    monkeypatch.setattr(image_loading_cskd, "upright_srgb", refuse)
    with pytest.raises(ImageLoadError, match="not enough memory to decode it"):
        load_image(encode(gradient()))


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


@pytest.mark.filterwarnings("ignore:Truncated File Read")
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
        (b"\0\0\0\x18ftypisom\0\0\0\0", "video or another file of the MP4 family"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 9, "begins like a PNG file, but Pillow cannot read its header"),
        ("no/such/file.jpg", "no such file"),
        (3.5, "type float"),
        (None, "type NoneType"),
        ({"image": "a.jpg"}, "neither 'bytes' nor 'path'"),
        (io.StringIO("text"), "mode 'rb'"),
        ("data:image/png;base64", "no comma"),
        ("data:image/png;base64,%%%%", "base64 data is broken"),
        ("bad\0name.jpg", "null"),
    ],
)
def test_unusable_sources(source, reason):
    with pytest.raises(ImageLoadError, match=reason) as error:
        load_image(source)
    assert error.value.source.isprintable() and error.value.source in str(error.value)


def test_what_is_no_plain_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    os.mknod(tmp_path / "socket", 0o140600)
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "endless").symlink_to("endless")
    (tmp_path / "device").symlink_to("/dev/zero")
    reasons = {
        ".": "a directory", "pipe": "a pipe", "socket": "a socket", "device": "a device", "nowhere": "no such file",
        "dangling": "a link to a file that does not exist", "endless": "leads back to itself", "x" * 300: "cannot be opened",
    }  # fmt: skip
    for name, reason in reasons.items():
        for read in (load_image, read_header):
            with pytest.raises(ImageLoadError, match=reason):
                read(tmp_path / name)


def test_file_without_permission(tmp_path, monkeypatch):
    path = tmp_path / "secret.png"
    path.write_bytes(encode(gradient()))
    path.chmod(0)
    if os.geteuid() == 0:  # whom nothing is forbidden

        def refuse(self, *args, **kwargs):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(type(path), "open", refuse)
    with pytest.raises(ImageLoadError, match="no permission to read it"):
        load_image(path)


def test_tiff_of_float_colours():
    with pytest.raises(ImageLoadError, match="store it with 8 or 16 bits a channel"):
        load_image(tiff(np.zeros((2, 3, 3), np.float32)))


def test_postscript_is_refused():
    with pytest.raises(ImageLoadError, match="not an image"):  # Ghostscript would run it
        load_image(encode(gradient(), "EPS"))


def test_heif_without_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageLoadError, match=r"pip install 'cskd_hf\[heif\]'"):
        load_image(b"\0\0\0\x18ftypheic\0\0\0\0")


def test_avif_without_its_codec(monkeypatch):
    Image.init()
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "AVIF"])
    with pytest.raises(ImageLoadError, match="AVIF file, which Pillow reads from version 11.3 on"):
        load_image(b"\0\0\0\x18ftypavif\0\0\0\0")


@pytest.mark.parametrize("orientation", [1, 6])
def test_heif(orientation, monkeypatch):
    pillow_heif = pytest.importorskip("pillow_heif", reason="the extra `heif` is not installed")
    from hostile_images import exif, stored

    buffer = io.BytesIO()
    turned = stored(gradient(480, 320), orientation)
    pillow_heif.from_pillow(turned).save(buffer, quality=95, exif=exif(orientation))
    loaded = load_image(buffer.getvalue())
    assert "HEIF" not in PIL.Image.OPEN  # the register of all Pillow users is left alone
    assert loaded.size == (480, 320)
    assert np.abs(pixels(loaded) - pixels(gradient(480, 320)))[..., :2].mean() < 3
    with pytest.raises(ImageLoadError):
        load_image(buffer.getvalue()[: len(buffer.getvalue()) // 2])


def test_header_alone():
    for image_format in ("PNG", "JPEG", "WEBP", "GIF"):
        assert read_header(encode(gradient(), image_format)) == (image_format, 48, 32)
    assert read_header(encode(gradient(480, 320), "JPEG")[:-1000]) == ("JPEG", 480, 320)
    assert read_header(png_header_only(60000, 60000)) == ("PNG", 60000, 60000)
    with pytest.raises(ImageLoadError, match="0 bytes"):
        read_header(b"")


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


def test_files_stand_alone(tmp_path):
    """The Hub receives these files beside the model's, so they must run with nothing of the package, and without torch."""
    folder = tmp_path / "flat"
    folder.mkdir()
    (folder / "__init__.py").touch()
    for name in (
        "image_loading_cskd.py",
        "image_sources_cskd.py",
        "image_colours_cskd.py",
        "image_preparation_cskd.py",
        "image_shortcut_cskd.py",
    ):
        shutil.copyfile(Path(image_loading_cskd.__file__).with_name(name), folder / name)
    code = (
        "import sys, numpy; from flat.image_loading_cskd import load_image; import flat.image_preparation_cskd; "
        "assert load_image(numpy.zeros((2, 3), 'uint8')).size == (3, 2); "
        "assert not {'torch', 'transformers', 'cskd_hf'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
