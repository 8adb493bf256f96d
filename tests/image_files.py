"""Pictures and files that the tests of the image door are made of."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image


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


def png(
    width: int, height: int, rows: bytes, *, depth: int = 8, colour: int = 2, before: bytes = b"", after: bytes = b""
) -> bytes:
    """A PNG of raw rows, each with its filter byte; `colour` as PNG numbers it (0 grey, 2 RGB), and further chunks."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + before + png_chunk(b"IDAT", zlib.compress(rows)) + after
    return b"\x89PNG\r\n\x1a\n" + body + png_chunk(b"IEND", b"")


def tiff(array: np.ndarray, *, bits: int | None = None, photometric: int | None = None, planar: bool = False) -> bytes:
    """An uncompressed little-endian TIFF of an array (height, width) or (height, width, channels), of kinds that Pillow does
    not write. `bits`: of a channel, where `array` holds packed bytes of a picture of one row."""
    channels = array.shape[2] if array.ndim == 3 else 1
    height, width = (1, array.size * 8 // bits) if bits else array.shape[:2]
    photometric = {None: 2 if channels == 3 else 1}.get(photometric, photometric)
    data = (array.transpose(2, 0, 1) if planar else array).astype(array.dtype.newbyteorder("<")).tobytes()
    parts = channels if planar else 1
    size = len(data) // parts
    entries = [
        (256, "I", [width]), (257, "I", [height]), (258, "H", [bits or array.dtype.itemsize * 8] * channels), (259, "H", [1]),
        (262, "H", [photometric]), (273, "I", [8 + size * part for part in range(parts)]), (277, "H", [channels]),
        (278, "I", [height]), (279, "I", [size] * parts), (284, "H", [2 if planar else 1]),
        (339, "H", [{"u": 1, "i": 2, "f": 3}[array.dtype.kind]] * channels),
    ]  # fmt: skip
    place = 8 + len(data)
    directory, further = struct.pack("<H", len(entries)), b""
    for tag, kind, values in entries:
        directory += struct.pack("<HHI", tag, {"H": 3, "I": 4}[kind], len(values))
        body = struct.pack(f"<{len(values)}{kind}", *values)
        if len(body) > 4:
            directory += struct.pack("<I", place + 2 + 12 * len(entries) + 4 + len(further))
            further += body
        else:
            directory += body.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<I", place) + data + directory + struct.pack("<I", 0) + further


# Primaries adapted to D50, as the published profiles have them: XYZ of red, green, blue.
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
DISPLAY_P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))


def matrix_profile(primaries: tuple, gamma: float | None = None) -> bytes:
    """An ICC v4 display profile of three primaries; `gamma` of all channels, or the curve of sRGB."""
    if gamma is None:
        curve = b"para\0\0\0\0" + struct.pack(">HH", 3, 0)
        curve += b"".join(_s15(v) for v in (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))
    else:
        curve = b"para\0\0\0\0" + struct.pack(">HH", 0, 0) + _s15(gamma)
    tags = {
        name: b"XYZ \0\0\0\0" + b"".join(map(_s15, xyz)) for name, xyz in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries)
    }
    tags |= {b"wtpt": b"XYZ \0\0\0\0" + b"".join(map(_s15, (0.9642, 1.0, 0.8249)))}
    tags |= {name: curve for name in (b"rTRC", b"gTRC", b"bTRC")}
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags, version=4)


def grey_profile(gamma: float) -> bytes:
    """An ICC v4 display profile of grey."""
    tags = {
        b"wtpt": b"XYZ \0\0\0\0" + b"".join(map(_s15, (0.9642, 1.0, 0.8249))),
        b"kTRC": b"para\0\0\0\0" + struct.pack(">HH", 0, 0) + _s15(gamma),
    }
    return _profile(b"mntr", b"GRAY", b"XYZ ", tags, version=4)


def ink_profile(corners: dict[tuple[int, int, int, int], tuple[float, float, float]]) -> bytes:
    """An ICC v2 printer profile: the Lab colour of each full overprint of C, M, Y, K; black where it is not given."""
    straight = bytes(range(256))
    table = b""
    for inks in np.ndindex(2, 2, 2, 2):
        lightness, a, b = corners.get(inks, (0, 0, 0))
        table += bytes([round(lightness * 2.55), round(a + 128), round(b + 128)])
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + b"".join(map(_s15, (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": lut + straight * 4 + table + straight * 3}, version=2)


def _s15(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes], version: int) -> bytes:
    place, table, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        data = data.ljust(-(-len(data) // 4) * 4, b"\0")
        table += struct.pack(">4sII", name, place + len(body), len(data))
        body += data
    size = 128 + len(table) + len(body)
    header = struct.pack(">I4sI4s4s4s12x4s", size, b"test", version << 24, kind, space, connection, b"acsp")
    return header.ljust(68, b"\0") + b"".join(map(_s15, (0.9642, 1.0, 0.8249))) + bytes(48) + table + body
