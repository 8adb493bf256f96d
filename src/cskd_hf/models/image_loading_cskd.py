"""The one door for images: whatever comes in, an upright 8-bit sRGB picture comes out.

The file is shipped to the Hub beside the model, so it imports the standard library, numpy and Pillow only.
"""

from __future__ import annotations

import base64
import binascii
import functools
import io
import os
import re
import stat
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageCms

MAX_DOWNLOAD_BYTES = 256 * 2**20
"""Largest body `load_image` accepts from a URL, in bytes."""

_URL_START = re.compile(r"https?://", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")
_MIN_BASE64 = 256
_MIN_DRAFT_OVERSAMPLING = 2
_CHUNK_BYTES = 2**16
_ORIENTATION_TAG = 0x0112
# EXIF 2.32, table 6: the transposition that brings a picture with this orientation upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow hands EPS files to Ghostscript, an external interpreter: not for files of unknown origin.
_REFUSED_FORMATS = frozenset({"EPS"})


class ImageLoadError(ValueError):
    """An image could not be read.

    Args:
        source (`str`): Short printable name of what was given: a path, a URL without its query, or a description
            such as `"<bytes, 12 B>"`; never the data.
        reason (`str`): What is wrong, and what to do where something can be done.
    """

    # `reason` has a default because data loader workers re-raise an exception from its message alone.
    def __init__(self, source: str, reason: str = ""):
        super().__init__(f"Cannot load the image {source}: {reason}" if reason else source)
        self.source = source
        self.reason = reason


def load_image(
    source: Any, *, target_size: int | None = None, max_pixels: int = 200_000_000, timeout: float | None = 30
) -> Image.Image:
    """Read one image as every part of the package sees it.

    EXIF orientation is applied; 16-bit grey is scaled to 8 bit; alpha is composited over white; CMYK and embedded ICC
    profiles become sRGB (a broken profile falls back to the plain conversion); an animation gives its first frame.
    No global setting of Pillow is changed, and the function keeps no state, so threads may share it.

    Args:
        source (`str`, `Path`, `bytes`, file object, `PIL.Image.Image`, `np.ndarray` or `dict`): A path, an http(s)
            URL, a data URI, a base64 string, encoded bytes, a binary file object (read from its start, left open), a
            decoded image, a uint8 array (height, width) or (height, width, 1, 3 or 4), or the
            `{"bytes": ..., "path": ...}` cell of an undecoded `datasets.Image` column.
        target_size (`int`, *optional*): Short side, in pixels, that the caller will resize to. A JPEG may then be
            decoded at 1/2, 1/4 or 1/8 scale, never below twice this size. Every scorer of one checkpoint must pass the
            same value, since the decoding scale changes pixels a little.
        max_pixels (`int`, defaults to 200 million): Largest width x height, in pixels, checked on the header before
            anything is decoded. WebP, TIFF and GIF also keep Pillow's built-in limit (about 179 million).
        timeout (`float`, *optional*, defaults to 30): Seconds for a download as a whole; `None` waits forever.

    Returns:
        `PIL.Image.Image`: A new image of mode `"RGB"`; `source` is not modified, nor shared.

    Raises:
        ImageLoadError: The image is missing, empty, truncated, not an image, too large, or of an unknown type.
        ValueError: `target_size` or `max_pixels` is not a positive integer.
    """
    for name, value in (("target_size", target_size), ("max_pixels", max_pixels)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"`{name}` is {value!r}; allowed: an integer of at least 1.")
    name = _describe(source)
    try:
        if isinstance(source, Image.Image):
            return _decode(source, name, None, max_pixels)
        if isinstance(source, np.ndarray):
            return _decode(_from_array(source, name), name, None, max_pixels)
        with _open_stream(source, name, timeout) as stream, _open_header(stream, name) as image:
            return _decode(image, name, target_size, max_pixels)
    except ImageLoadError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageLoadError(name, f"too many pixels for Pillow's own limit on this format ({error})") from error
    except Exception as error:  # decoders of foreign files raise anything, from struct.error to ZeroDivisionError
        raise ImageLoadError(name, _explain(error)) from error


def read_header(source: Any, *, timeout: float | None = 30) -> tuple[str, int, int]:
    """Format, width and height in pixels that an encoded image declares, without decoding it.

    Args:
        source: An encoded image, as `load_image` takes it.
        timeout: As in `load_image`.

    Raises:
        ImageLoadError: The image is missing, empty, or of an unknown type.
    """
    name = _describe(source)
    try:
        with _open_stream(source, name, timeout) as stream, _open_header(stream, name) as image:
            return image.format or "", image.width, image.height
    except ImageLoadError:
        raise
    except Exception as error:  # as in load_image
        raise ImageLoadError(name, _explain(error)) from error


def _describe(source: Any) -> str:
    """Name `source` in at most about 200 printable characters, without its data or a URL's secrets."""
    if isinstance(source, Mapping) and source.get("path"):
        return _describe(source["path"])
    if isinstance(source, Mapping):
        source = source.get("bytes")
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"<bytes, {len(source)} B>"
    if isinstance(source, Image.Image):
        file_name = getattr(source, "filename", "")
        return _describe(file_name) if file_name else f"<PIL image, {source.mode}, {source.width}x{source.height}>"
    if isinstance(source, np.ndarray):
        return f"<array, {source.dtype}, shape {source.shape}>"
    if isinstance(source, str):
        if source[:5].lower() == "data:" or _looks_like_base64(source):
            return f"<base64 or data URI, {len(source)} characters>"
        if _URL_START.match(source):
            # A signed URL carries its secret in the query, others carry a password before the host.
            source = re.sub(r"//[^/]*@", "//", re.split(r"[?#]", source, maxsplit=1)[0])
    if not isinstance(source, (str, os.PathLike)):
        source_name = getattr(source, "name", None)
        return _describe(source_name) if isinstance(source_name, str) else f"<{type(source).__name__}>"
    text = "".join(c if c.isprintable() else "?" for c in os.fsdecode(source))
    return repr(text if len(text) <= 200 else f"{text[:40]}...{text[-157:]}")


def _looks_like_base64(text: str) -> bool:
    return len(text) >= _MIN_BASE64 and _BASE64.fullmatch(text) is not None and not os.path.isfile(text)


def _explain(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    return f"it is damaged or not readable ({type(error).__name__}: {str(error)[:200]})"


def _open_stream(source: Any, name: str, timeout: float | None) -> BinaryIO:
    """Turn any encoded source into a seekable binary stream that may be closed."""
    if isinstance(source, Mapping):
        if source.get("bytes") is None and source.get("path") is None:
            raise ImageLoadError(name, "the dict has neither 'bytes' nor 'path'; fill one of them")
        source = source["path"] if source.get("bytes") is None else source["bytes"]
    if isinstance(source, str) and _URL_START.match(source):
        return io.BytesIO(_download(source, name, timeout))
    if isinstance(source, str) and source[:5].lower() == "data:":
        return io.BytesIO(_decode_data_uri(source, name))
    if isinstance(source, str) and _looks_like_base64(source):
        return io.BytesIO(_decode_base64(source, name))
    if isinstance(source, (str, os.PathLike)):
        return _open_file(Path(source), name)
    if isinstance(source, io.TextIOBase):
        raise ImageLoadError(name, "the file object is in text mode; open it with mode 'rb'")
    if hasattr(source, "read"):
        if hasattr(source, "seekable") and source.seekable():
            source.seek(0)
        source = source.read()
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source)
    raise ImageLoadError(
        name,
        f"a value of type {type(source).__name__} is not an image; allowed: path, URL, bytes, binary file object, "
        "PIL image, uint8 array, or a dict with 'bytes' or 'path'",
    )


def _open_file(path: Path, name: str) -> BinaryIO:
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise ImageLoadError(name, "it is a directory; give the path of one image file")
    if not stat.S_ISREG(mode):  # reading a pipe or a device could block forever
        raise ImageLoadError(name, "it is not a regular file")
    return path.open("rb")


def _download(url: str, name: str, timeout: float | None) -> bytes:
    import urllib.request  # an import only downloads need, and it costs 20 ms

    deadline = None if timeout is None else time.monotonic() + timeout
    request = urllib.request.Request(url, headers={"User-Agent": "cskd-hf image loader"})
    body = bytearray()
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            while chunk := response.read1(_CHUNK_BYTES):
                body += chunk
                if len(body) > MAX_DOWNLOAD_BYTES:
                    raise ImageLoadError(name, f"the download exceeds the limit of {MAX_DOWNLOAD_BYTES} bytes")
                if deadline is not None and time.monotonic() > deadline:
                    raise ImageLoadError(name, f"the download took longer than `timeout` ({timeout:g} s)")
            expected = response.headers.get("Content-Length")
    except ImageLoadError:
        raise
    except Exception as error:  # URLError, HTTPException, ssl and socket errors, and ValueError for a malformed URL
        raise ImageLoadError(name, f"the download failed ({type(error).__name__}: {error})") from error
    if expected is not None and expected.isdigit() and len(body) < int(expected):
        raise ImageLoadError(name, f"the download broke off after {len(body)} of {expected} bytes")
    return bytes(body)


def _decode_data_uri(uri: str, name: str) -> bytes:
    """Decode `data:[<type>][;base64],<data>` (RFC 2397)."""
    from urllib.parse import unquote_to_bytes

    header, comma, data = uri.partition(",")
    if not comma:
        raise ImageLoadError(name, "the data URI has no comma before its data")
    return _decode_base64(data, name) if header.lower().endswith(";base64") else unquote_to_bytes(data)


def _decode_base64(text: str, name: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageLoadError(name, f"the base64 data is broken ({error})") from error


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    if array.dtype != np.uint8:
        raise ImageLoadError(name, f"the array is {array.dtype}; allowed: uint8 with values 0 to 255")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise ImageLoadError(
            name, f"the array has shape {array.shape}; allowed: (height, width) or (height, width, 1, 3 or 4)"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def _open_header(stream: BinaryIO, name: str) -> Image.Image:
    """Identify the format and read the header, as `Image.open` does but without its global pixel limit.

    Above that limit `Image.open` warns or raises, whatever limit the caller asked for, and only a change of the global
    would stop it. So the registered openers are called here, and the caller checks the size.
    """
    prefix = stream.read(16)
    if not prefix:
        raise ImageLoadError(name, "it is empty (0 bytes)")
    tried: set[str] = set(_REFUSED_FORMATS)
    for load_plugins in (Image.preinit, Image.init):
        load_plugins()
        for image_format in [f for f in Image.ID if f not in tried]:
            tried.add(image_format)
            factory, accept = Image.OPEN[image_format]
            try:
                verdict = accept(prefix) if accept else True
                if not verdict or isinstance(verdict, str):  # a string: the format is known, but its codec is absent
                    continue
                stream.seek(0)
                return factory(stream, "")
            except (SyntaxError, IndexError, TypeError, struct.error):  # the openers' ways to say "not mine"
                continue
    if prefix[4:8] == b"ftyp":
        raise ImageLoadError(
            name, "Pillow cannot read this HEIF or video file; install pillow-heif and call its register_heif_opener()"
        )
    raise ImageLoadError(name, "it is not an image of a format that Pillow knows")


def _check_pixels(image: Image.Image, name: str, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise ImageLoadError(
            name,
            f"{image.width}x{image.height} = {image.width * image.height} pixels, allowed: at most {max_pixels}; "
            "raise `max_pixels` if you trust the file",
        )


def _decode(image: Image.Image, name: str, target_size: int | None, max_pixels: int) -> Image.Image:
    """Decode to upright sRGB. `target_size` is given only for images opened here, since drafting changes them."""
    _check_pixels(image, name, max_pixels)
    if target_size is not None:
        side = _MIN_DRAFT_OVERSAMPLING * target_size
        image.draft(None, (side, side))
    image.load()
    _check_pixels(image, name, max_pixels)  # an icon or a GIF can turn out larger than its header says
    orientation = _orientation(image)  # after load(): Pillow turns TIFF files itself and then drops their tag
    profile = image.info.get("icc_profile")
    colours, alpha = _split_alpha(_to_8_bit(image, name))
    colours = _to_srgb(colours, profile)
    if alpha is not None:
        white = Image.new("RGB", colours.size, "white")
        white.paste(colours, mask=alpha)
        colours = white
    if orientation in _UPRIGHT:
        colours = colours.transpose(_UPRIGHT[orientation])
    colours.info = {}  # a leftover orientation tag would turn the picture once more in other libraries
    return colours


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF data must not cost us an intact picture
        return 1


def _to_8_bit(image: Image.Image, name: str) -> Image.Image:
    """Scale modes I;16*, I and F to 8-bit grey; other modes pass through.

    16-bit values v become round(v / 257), so that 65535 is white. Floats are taken as 0..1 or, if any exceeds 1, as
    0..255.
    """
    if not (image.mode.startswith("I") or image.mode == "F"):
        return image
    values = np.asarray(image)  # (height, width)
    low, high = values.min(), values.max()
    limit = 65535 if image.mode != "F" else 255
    if not (low >= 0 and high <= limit):  # written so that NaN is refused
        given = f"its pixels (mode {image.mode}) range from {low:g} to {high:g}"
        raise ImageLoadError(name, f"{given}, allowed: 0 to {limit}; store it as 8 bit")
    if image.mode == "F":
        grey = np.rint(values * (255.0 if high <= 1 else 1.0)).astype(np.uint8)
    else:
        values = values.astype(np.uint16)
        # round(v / 257) in 16 bits: above 65407 the sum would overflow, and all of those values are white.
        grey = ((np.minimum(values, 65407) + 128) // 257).astype(np.uint8)
    result = Image.fromarray(grey)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        result.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return result


def _split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Separate colour (mode L, RGB, CMYK, ...) from alpha (mode L), which is `None` for an opaque image."""
    has_alpha = "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La")
    if image.mode == "La":  # Pillow converts premultiplied grey to nothing but LA
        image = image.convert("LA")
    if has_alpha:
        grey = image.mode in ("L", "LA")
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        colours = image.getchannel("R") if grey else image.convert("RGB")
        return colours, alpha if alpha.getextrema()[0] < 255 else None
    return image, None


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert to mode RGB through the embedded ICC profile, or by Pillow's plain conversion where there is none."""
    if image.mode == "LAB":  # the only mode that Pillow cannot convert by itself
        return ImageCms.profileToProfile(
            image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    if profile:
        try:
            mode = _profile_mode(image.mode, profile)
            if mode is not None and not (mode == "RGB" and _is_srgb(profile)):
                return ImageCms.applyTransform(image.convert(mode), _transform(profile, mode))
        except Exception:  # a broken profile: the plain conversion is what viewers show
            pass
    return image.convert("RGB")


def _profile_mode(image_mode: str, profile: bytes) -> str | None:
    """The pixel mode to feed the profile with, or `None` where it does not describe pixels of `image_mode`."""
    space = ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.xcolor_space.strip()
    if space == "CMYK":
        return "CMYK" if image_mode == "CMYK" else None
    if space == "GRAY":
        return "L" if image_mode in ("1", "L") else None
    return "RGB" if space == "RGB" and image_mode != "CMYK" else None


def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(
        ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), mode, "RGB"
    )


@functools.lru_cache(maxsize=16)
def _is_srgb(profile: bytes) -> bool:
    """Whether the profile leaves colours within 2 of 255 levels; most do, and skipping them saves the slow step."""
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    probe = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(27, 27, 3)
    converted = np.asarray(ImageCms.applyTransform(Image.fromarray(probe), _transform(profile, "RGB")))
    return int(np.abs(converted.astype(np.int16) - probe).max()) <= 2
