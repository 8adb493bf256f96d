"""A folder of the image files that people really have, and of those that somebody sends to break a program."""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, features

from image_files import (
    ADOBE_RGB,
    DISPLAY_P3,
    encode,
    gradient,
    ink_profile,
    matrix_profile,
    png,
    png_chunk,
    tiff,
)

STORED_AS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""How a camera stores a picture of each EXIF orientation: the reverse of what brings it upright."""

UPRIGHT_EQUAL = [f"exif-{orientation}.jpg" for orientation in range(9)] + ["exif-6.png", "exif-6.webp", "exif-6.tiff"]
"""Files of `make_hostile_images` that show one scene."""


def make_hostile_images(folder: Path, seed: int = 0) -> dict[str, bool]:
    """Fill a folder.

    Args:
        folder: is made.
        seed: of the scene.

    Returns:
        For each file, by name (which may hold half characters), whether it can be scored. What depends on who reads, or on
        what is installed, is left out of both.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scene = _scene(seed)
    good = _orientations(scene) | _depths() | _colours(scene) | _kinds(scene) | _names(scene)
    bad = _cut_files(scene) | _bombs() | _impostors(scene) | _broken_values() | _broken_structures(scene)
    for name, data in (good | bad).items():
        path = os.fsencode(folder) + b"/" + os.fsencode(name)
        with open(path, "wb") as file:
            file.write(data)
    expected = dict.fromkeys(good, True) | dict.fromkeys(bad, False)
    for name, (scored, make) in _places().items():
        make(folder / name)
        expected[name] = scored
    return expected


def exif(orientation: int) -> bytes:
    data = Image.Exif()
    data[0x0112] = orientation
    return data.tobytes()


def stored(picture: Image.Image, orientation: int) -> Image.Image:
    return picture.transpose(STORED_AS[orientation]) if orientation in STORED_AS else picture


def _scene(seed: int) -> Image.Image:
    """A sky over a dark ground with some noise, so that each wrong turn changes a score."""
    rng = np.random.default_rng(seed)
    rows = np.linspace(240, 20, 60)[:, None, None] * np.array([0.6, 0.8, 1.0])
    noise = rng.normal(0, 6, (60, 80, 3)) + np.linspace(-30, 30, 80)[None, :, None]
    return Image.fromarray((rows + noise).clip(0, 255).astype(np.uint8))


def _orientations(scene: Image.Image) -> dict[str, bytes]:
    files = {
        f"exif-{orientation}.jpg": encode(
            stored(scene, orientation), "JPEG", quality=98, subsampling=0, exif=exif(orientation)
        )
        for orientation in range(9)
    }
    turned = stored(scene, 6)
    files["exif-6.png"] = encode(turned, "PNG", exif=exif(6))
    files["exif-6.webp"] = encode(turned, "WEBP", exif=exif(6), lossless=True)
    files["exif-6.tiff"] = encode(turned, "TIFF", exif=exif(6))
    files["exif-99.jpg"] = encode(scene, "JPEG", exif=exif(99))
    files["exif-broken.jpg"] = encode(scene, "JPEG", exif=b"Exif\0\0II*\0garbage")
    files["exif-broken.png"] = encode(scene, "PNG", exif=b"Exif\0\0MM\0*\0\0\0")
    return files


def _depths() -> dict[str, bytes]:
    levels = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1365
    colours = np.stack([levels, levels[::-1], levels[:, ::-1]], axis=-1)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colours)
    clear = np.concatenate([colours, levels[..., None]], axis=-1)
    return {
        "16-bit-grey.png": encode(Image.fromarray(levels), "PNG"),
        "16-bit-grey.tiff": encode(Image.fromarray(levels), "TIFF"),
        "16-bit-white-is-zero.tiff": tiff(levels, photometric=0),
        "16-bit-rgb.png": png(8, 6, rows, depth=16),
        "16-bit-rgb-transparent.png": png(8, 6, rows, depth=16, before=png_chunk(b"tRNS", colours[2, 2].astype(">u2").tobytes())),
        "16-bit-rgba.png": png(8, 6, b"".join(b"\0" + row.astype(">u2").tobytes() for row in clear), depth=16, colour=6),
        "16-bit-rgb.tiff": tiff(colours),
        "16-bit-cmyk.tiff": tiff(clear, photometric=5),
        "12-bit.tiff": tiff(np.arange(48, dtype=np.uint8), bits=12),
        "float.tiff": encode(Image.fromarray((levels / 65535).astype(np.float32)), "TIFF"),
        "float-to-255.tiff": encode(Image.fromarray((levels / 257).astype(np.float32)), "TIFF"),
        "16-bit.pgm.png": b"P5 8 6 65535\n" + levels.astype(">u2").tobytes(),
        "2-bit-transparent.png": png(4, 1, b"\0\x1b", depth=2, colour=0, before=png_chunk(b"tRNS", b"\0\1")),
        "1-bit.png": encode(gradient().convert("1"), "PNG"),
        "1-bit-fax.tiff": encode(gradient().convert("1"), "TIFF", compression="group4"),
    }  # fmt: skip


def _colours(scene: Image.Image) -> dict[str, bytes]:
    palette = scene.quantize(16)
    clear = scene.copy()
    clear.putalpha(scene.convert("L"))
    inks = ink_profile({(0, 0, 0, 0): (95, 0, 0), (1, 0, 0, 0): (55, -30, -45), (0, 1, 0, 0): (48, 74, -3)})
    return {
        "grey.jpg": encode(scene.convert("L"), "JPEG"),
        "grey-alpha.png": encode(clear.convert("LA"), "PNG"),
        "alpha.png": encode(clear, "PNG"),
        "alpha.webp": encode(clear, "WEBP"),
        "alpha.tiff": encode(clear, "TIFF"),
        "transparent-colour.png": encode(scene, "PNG", transparency=(1, 2, 3)),
        "palette.png": encode(palette, "PNG"),
        "palette-alpha.png": encode(palette, "PNG", transparency=bytes(range(0, 256, 16))),
        "palette.gif": encode(palette, "GIF", transparency=3),
        "all-clear.png": encode(Image.new("RGBA", (9, 9)), "PNG"),
        "cmyk.jpg": encode(scene.convert("CMYK"), "JPEG"),
        "cmyk.tiff": encode(scene.convert("CMYK"), "TIFF"),
        "cmyk-profile.jpg": encode(scene.convert("CMYK"), "JPEG", icc_profile=inks),
        "lab.tiff": encode(Image.new("LAB", (9, 9), (180, 120, 140)), "TIFF"),
        "jpeg-inside.tiff": encode(scene, "TIFF", compression="jpeg"),
        "adobe-rgb.jpg": encode(scene, "JPEG", icc_profile=matrix_profile(ADOBE_RGB, 563 / 256)),
        "display-p3.png": encode(scene, "PNG", icc_profile=matrix_profile(DISPLAY_P3)),
        "profile-broken.jpg": encode(scene, "JPEG", icc_profile=b"no profile at all"),
        "profile-cut.png": encode(scene, "PNG", icc_profile=matrix_profile(DISPLAY_P3)[:200]),
        "profile-of-inks.png": encode(scene, "PNG", icc_profile=inks),
    }


def _kinds(scene: Image.Image) -> dict[str, bytes]:
    frames = [scene, Image.new("RGB", scene.size, "red")]
    several = {"save_all": True, "append_images": frames[1:]}
    files = {
        "animated.gif": encode(scene.quantize(64), "GIF", **several),
        "animated.png": encode(scene, "PNG", **several),
        "animated.webp": encode(scene, "WEBP", **several),
        "pages.tiff": encode(scene, "TIFF", **several),
        "two-views.jpg": encode(scene, "MPO", **several),
        "progressive.jpg": encode(scene, "JPEG", progressive=True),
        "interlaced.gif": encode(scene.quantize(64), "GIF", interlace=1),
        "lzw.tiff": encode(scene, "TIFF", compression="tiff_lzw"),
        "plain.bmp": encode(scene, "BMP"),
        "targa.png": encode(scene, "TGA"),
        "icon.png": encode(scene, "ICO"),
        "1x1.png": encode(Image.new("RGB", (1, 1), "red"), "PNG"),
        "1x1.gif": encode(Image.new("L", (1, 1)), "GIF"),
        "1x10000.png": encode(Image.new("RGB", (1, 10_000), "teal"), "PNG"),
        "10000x1.jpg": encode(Image.new("RGB", (10_000, 1), "teal"), "JPEG"),
        "really-a-png.jpg": encode(scene, "PNG"),
        "really-a-jpeg.png": encode(scene, "JPEG"),
        "rubbish-behind.jpg": encode(scene, "JPEG") + b"rubbish" * 999,
        "rubbish-behind.png": encode(scene, "PNG") + b"\0" * 999,
    }
    if features.check("avif"):
        files["plain.avif"] = encode(scene, "AVIF")
        files["exif-6.avif"] = encode(stored(scene, 6), "AVIF", exif=exif(6))
        files["animated.avif"] = encode(scene, "AVIF", **several)
    if features.check("jpg_2000"):
        files["jpeg-2000.jpg"] = encode(scene, "JPEG2000")
    return files


def _names(scene: Image.Image) -> dict[str, bytes]:
    data = encode(scene, "JPEG")
    names = (
        "line\nbreak.jpg", "-rf.jpg", "--output.jpg", "a, \"b\"; 'c'.jpg", " space .jpg", "ü 图 🙂.jpg", "SHOUTING.JPG",
        "=1+1.jpg", "tab\tand\rreturn.jpg", "x" * 240 + ".jpg", "%s{0}$HOME.jpg", os.fsdecode(b"half\xff\xfecharacter.jpg"),
    )  # fmt: skip
    return dict.fromkeys(names, data)


def _cut_files(scene: Image.Image) -> dict[str, bytes]:
    whole = {
        "cut.jpg": encode(scene, "JPEG"),
        "cut-progressive.jpg": encode(scene, "JPEG", progressive=True),
        "cut.png": encode(scene, "PNG"),
        "cut.gif": encode(scene.quantize(64), "GIF"),
        "cut.webp": encode(scene, "WEBP"),
        "cut.tiff": encode(scene, "TIFF"),
        "cut-lzw.tiff": encode(scene, "TIFF", compression="tiff_lzw"),
        "cut.bmp": encode(scene, "BMP"),
    }
    if features.check("avif"):
        whole["cut.avif"] = encode(scene, "AVIF")
    cut = {name: data[: len(data) * 3 // 4] for name, data in whole.items()}
    return cut | {"header-only.jpg": whole["cut.jpg"][:20], "signature-only.png": whole["cut.png"][:8]}


def _bombs() -> dict[str, bytes]:
    hardly = zlib.compress(bytes(10**7))
    gif = (
        b"GIF89a"
        + struct.pack("<HH", 65535, 65535)
        + b"\0\0\0,"
        + struct.pack("<HHHH", 0, 0, 65535, 65535)
        + b"\0\2\2L\1\0;"
    )
    wide = tiff(np.zeros((1, 1), np.uint8)).replace(
        struct.pack("<HHII", 256, 4, 1, 1), struct.pack("<HHII", 256, 4, 1, 2**31 - 1)
    )
    return {
        "bomb.png": png(60_000, 60_000, b"\0" * 100),
        "bomb-text.png": png(1, 1, b"\0abc", before=png_chunk(b"zTXt", b"Comment\0\0" + hardly)),
        "bomb.gif": gif,
        "bomb.tiff": wide,
        "bomb.bmp": encode(Image.new("L", (1, 1)), "BMP")[:18] + struct.pack("<ii", 2**30, 2**30) + bytes(40),
    }  # fmt: skip


def _impostors(scene: Image.Image) -> dict[str, bytes]:
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.jpg", encode(scene, "JPEG"))
    return {
        "empty.jpg": b"",
        "one-byte.png": b"\x89",
        "zeros.jpg": bytes(4096),
        "text.jpg": b"this is text, not a picture\n" * 9,
        "page.jpg": b"<!DOCTYPE html><html><body>404 not found</body></html>",
        "drawing.png": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "document.jpg": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
        "archive.png": archive.getvalue(),
        "pickle.jpg": b"\x80\x04\x95cos\nsystem\n(S'true'\ntR.",
        "video.jpg": b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + bytes(99),
        "postscript.png": encode(scene, "EPS"),
        "not-a-webp.webp": b"RIFF\x24\0\0\0WAVEfmt " + bytes(40),
    }


def _broken_values() -> dict[str, bytes]:
    return {
        "float-nan.tiff": tiff(np.array([[0.5, np.nan]], np.float32)),
        "float-infinite.tiff": tiff(np.array([[0.5, np.inf]], np.float32)),
        "float-negative.tiff": tiff(np.array([[-3.0, 1.0]], np.float32)),
        "float-rgb.tiff": tiff(np.full((2, 2, 3), 0.5, np.float32)),
        "32-bit.tiff": tiff(np.array([[0, 4_000_000_000]], np.uint32)),
        "16-bit-planes.tiff": tiff(np.arange(12, dtype=np.uint16).reshape(2, 2, 3) * 5000, planar=True),
    }


def _broken_structures(scene: Image.Image) -> dict[str, bytes]:
    whole = encode(scene, "PNG")
    at = whole.index(b"IDAT") + 40
    loop = b"II*\0" + struct.pack("<IHI", 8, 0, 8)
    return {
        "no-size.png": png(0, 0, b"\0"),
        "bad-checksum.png": whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :],
        "bad-stream.png": b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 9, 8, 2, 0, 0, 0))
        + png_chunk(b"IDAT", b"\x78\x9cnot deflate")
        + png_chunk(b"IEND", b""),
        "loop.tiff": loop,
        "far-offset.tiff": b"II*\0" + struct.pack("<I", 2**32 - 8),
        "no-frames.gif": b"GIF89a\1\0\1\0\0\0\0;",
        "no-tables.jpg": b"\xff\xd8\xff\xc0\0\x11\x08\0\x10\0\x10\3\1\"\0\2\x11\1\3\x11\1\xff\xda\0\x0c\3\1\0\2\x11\3\x11\0?\0\xff\xd9",
    }  # fmt: skip


def _places() -> dict[str, tuple[bool, Callable[[Path], None]]]:
    """Things in a folder that are no plain files, and whether they can be scored."""
    return {
        "folder.jpg": (False, lambda path: path.mkdir()),
        "pipe.jpg": (False, lambda path: os.mkfifo(path)),
        "socket.jpg": (False, lambda path: os.mknod(path, stat.S_IFSOCK | 0o600)),
        "device.jpg": (False, lambda path: path.symlink_to("/dev/zero")),
        "dangling.jpg": (False, lambda path: path.symlink_to("nowhere.jpg")),
        "endless.jpg": (False, lambda path: path.symlink_to("endless.jpg")),
        "link.jpg": (True, lambda path: path.symlink_to("exif-1.jpg")),
    }
