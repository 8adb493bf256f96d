"""The one door for images: whatever comes in, an upright 8-bit sRGB picture comes out.

The file is shipped to the Hub beside the model, so it imports the standard library, numpy, Pillow and its neighbours only.
"""

from __future__ import annotations

import struct
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from .image_colours_cskd import raw_mode, upright_srgb
from .image_sources_cskd import ImageLoadError, describe_source, is_tensor, open_stream, picture_of_array

_MIN_DRAFT_OVERSAMPLING = 2
_PREFIX = 16
# Pillow hands EPS files to Ghostscript, an external interpreter: not for files of unknown origin.
_REFUSED_FORMATS = frozenset({"EPS"})
# ISO/IEC 23008-12, annex B: brands of HEIF files; the last two are of any codec, AVIF too.
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_PLANAR_TAG, _SEPARATE_PLANES, _BITS_TAG = 284, 2, 258


def load_image(
    source: Any,
    *,
    target_size: int | None = None,
    allow_truncated: bool = False,
    max_pixels: int = 200_000_000,
    timeout: float | None = 30,
) -> Image.Image:
    """Read one image as every part of the package sees it.

    EXIF orientation is applied; 16-bit grey is scaled to 8 bit, and of 16-bit colours Pillow keeps the high byte; alpha is
    composited over white; CMYK and embedded ICC profiles become sRGB (a broken profile falls back to the plain conversion);
    an animation gives its first frame. The format is told by the content, whatever the extension says. No global setting of
    Pillow is changed, and the function keeps no state, so threads may share it.

    Args:
        source (`str`, `Path`, `bytes`, file object, `PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or `dict`): A path, an
            http(s) URL, a data URI, a base64 string, encoded bytes, a binary file object (read from its start, left open),
            a decoded image, or the `{"bytes": ..., "path": ...}` cell of an undecoded `datasets.Image` column. A `Path` is
            always a file. An array or tensor holds uint8 of 0..255, uint16 of 0..65535, float of 0..1 or bool, as (height,
            width) or with 1, 3 or 4 channels, first or last; where both could be they are the last dimension of an array
            and the first one of a tensor.
        target_size (`int`, *optional*): Short side, in pixels, that the caller will resize to. A JPEG may then be
            decoded at 1/2, 1/4 or 1/8 scale, never below twice this size. Every scorer of one checkpoint must pass the
            same value, since the decoding scale changes pixels a little.
        allow_truncated (`bool`, defaults to `False`): Take what can be decoded of a file that breaks off or is damaged
            midway (the rest is grey in a JPEG, else black or clear), instead of refusing it. Formats that Pillow decodes
            only as a whole (WebP, AVIF, HEIF) stay refused, as does a file of which nothing shows. Has no effect on a PIL
            image, whose pixels Pillow loads by its own rules.
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
    name = describe_source(source)
    try:
        if isinstance(source, Image.Image):
            return _decode(source, name, max_pixels)
        if isinstance(source, np.ndarray) or is_tensor(source):
            return _decode(picture_of_array(source, name), name, max_pixels)
        with open_stream(source, name, timeout) as stream, _open_header(stream, name) as image:
            return _decode_file(image, name, target_size, allow_truncated, max_pixels)
    except ImageLoadError:
        raise
    except Exception as error:
        raise _named_error(error, name) from error


def read_header(source: Any, *, timeout: float | None = 30) -> tuple[str, int, int]:
    """Format, width and height in pixels that an encoded image declares, without decoding it.

    Args:
        source: An encoded image, as `load_image` takes it.
        timeout: As in `load_image`.

    Raises:
        ImageLoadError: The image is missing, empty, or of an unknown type.
    """
    name = describe_source(source)
    try:
        with open_stream(source, name, timeout) as stream, _open_header(stream, name) as image:
            return image.format or "", image.width, image.height
    except ImageLoadError:
        raise
    except Exception as error:
        raise _named_error(error, name) from error


def _named_error(error: Exception, name: str) -> ImageLoadError:
    """The one type of error; decoders of foreign files raise anything, from struct.error to ZeroDivisionError."""
    if isinstance(error, Image.DecompressionBombError):
        return ImageLoadError(name, f"too many pixels for Pillow's own limit on this format ({error})")
    if isinstance(error, MemoryError):
        return ImageLoadError(name, "not enough memory to decode it")
    return ImageLoadError(name, f"it is damaged or not readable ({type(error).__name__}: {str(error)[:200]})")


def _open_header(stream: BinaryIO, name: str) -> Image.Image:
    """Identify the format and read the header, as `Image.open` does but without its global pixel limit.

    Above that limit `Image.open` warns or raises, whatever limit the caller asked for, and only a change of the global
    would stop it. So the registered openers are called here, and the caller checks the size.
    """
    prefix = stream.read(_PREFIX)
    if not prefix:
        raise ImageLoadError(name, "it is empty (0 bytes)")
    tried: set[str] = set(_REFUSED_FORMATS)
    refusal = ""
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
            except (SyntaxError, IndexError, TypeError, struct.error) as error:  # the openers' ways to say "not mine"
                if accept and not refusal and len(prefix) == _PREFIX:
                    cause = str(error) if isinstance(error, SyntaxError) else "it breaks off"
                    if cause == "unknown pixel mode":  # of a TIFF, e.g. with colours of 32-bit floats
                        cause += "; store it with 8 or 16 bits a channel"
                    refusal = f"it begins like a {image_format} file, but Pillow cannot read its header ({cause})"
    if prefix[4:8] == b"ftyp" and (not refusal or prefix[8:12] in _HEIF_BRANDS):
        return _open_heif(stream, name, prefix[8:12])
    raise ImageLoadError(name, refusal or "it is not an image of a format that Pillow knows")


def _open_heif(stream: BinaryIO, name: str, brand: bytes) -> Image.Image:
    """Open a HEIF file by pillow-heif, without entering it in Pillow's global register of formats."""
    if brand in _AVIF_BRANDS:
        raise ImageLoadError(name, "it is an AVIF file, which Pillow reads from version 11.3 on")
    if brand not in _HEIF_BRANDS:
        shown = brand.decode("latin-1").strip()
        raise ImageLoadError(name, f"it is a video or another file of the MP4 family (brand {shown!r}), not an image")
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise ImageLoadError(
            name, "it is a HEIF file, which needs an extra: pip install 'cskd_hf[heif]' (that is, pillow-heif)"
        ) from error
    stream.seek(0)
    return HeifImageFile(stream, "")


def _check_pixels(image: Image.Image, name: str, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        raise ImageLoadError(
            name,
            f"{image.width}x{image.height} = {image.width * image.height} pixels, allowed: at most {max_pixels}; "
            "if you trust the file, make it smaller, or raise `max_pixels` of the pipeline or of load_image",
        )


def _decode(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    """Upright sRGB of a picture that somebody else has opened, which is therefore loaded but not changed."""
    _check_pixels(image, name, max_pixels)
    raw = raw_mode(image)
    image.load()
    return upright_srgb(image, name, raw)


def _decode_file(
    image: Image.Image, name: str, target_size: int | None, allow_truncated: bool, max_pixels: int
) -> Image.Image:
    """Upright sRGB of a file that was opened here, so its decoder may be set up."""
    _check_pixels(image, name, max_pixels)
    tags = getattr(image, "tag_v2", {})
    if tags.get(_PLANAR_TAG) == _SEPARATE_PLANES and max(tags.get(_BITS_TAG, (8,))) > 8:
        # Pillow reads such planes as 8 bit and gives noise.
        raise ImageLoadError(
            name, "it is a TIFF of 16 bits a channel in separate planes; store it interleaved, or as 8 bit"
        )
    if target_size is not None:
        side = _MIN_DRAFT_OVERSAMPLING * target_size
        image.draft(None, (side, side))
    raw = raw_mode(image)
    if allow_truncated:
        _load_what_is_there(image, name)
    else:
        image.load()
    _check_pixels(image, name, max_pixels)  # an icon or a GIF can turn out larger than its header says
    return upright_srgb(image, name, raw, owned=True)


def _load_what_is_there(image: Image.Image, name: str) -> None:
    """Load a picture as far as its file goes, as Pillow's `LOAD_TRUNCATED_IMAGES` does, but for this one picture."""
    read = _end_jpeg(image)
    try:
        image.load()
        if read is None or not read.ended:
            return
    except Image.DecompressionBombError:
        raise
    except Exception as error:  # as in `load_image`
        image.tile = []  # what was decoded up to here is the picture
        try:
            image.load()
        except Exception:
            raise error from None
    extrema = image.getextrema()
    bands = extrema if isinstance(extrema[0], tuple) else (extrema,)
    if all(low == high for low, high in bands):
        raise ImageLoadError(name, "the file breaks off before anything of the picture can be decoded")


class _EndedJPEG:
    """Reads a JPEG, and once its data are over, an end-of-image marker, at which the decoder gives what it has."""

    def __init__(self, read: Any) -> None:
        self._read, self.ended = read, False

    def __call__(self, size: int) -> bytes:
        data = self._read(size)
        if not data and not self.ended:
            self.ended = True
            return b"\xff\xd9"
        return data


def _end_jpeg(image: Image.Image) -> _EndedJPEG | None:
    if image.format not in ("JPEG", "MPO"):
        return None
    image.load_read = read = _EndedJPEG(image.load_read)
    return read


__all__ = ["ImageLoadError", "load_image", "read_header"]
