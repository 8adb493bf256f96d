"""What an image can be given as, and the error that names it: paths, URLs, bytes, arrays and tensors.

The file is shipped to the Hub beside the model, so it imports the standard library, numpy and Pillow only.
"""

from __future__ import annotations

import base64
import binascii
import errno
import io
import os
import re
import stat
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

MAX_DOWNLOAD_BYTES = 256 * 2**20
"""Largest body `load_image` accepts from a URL, in bytes."""

_URL_START = re.compile(r"https?://", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")
_MIN_BASE64 = 256
_CHUNK_BYTES = 2**16
_CHANNELS = (1, 3, 4)
# A resampling filter overshoots by about this much, or rounding; more says that the values have another meaning.
_TOLERANCE = 1 / 255


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


def describe_source(source: Any) -> str:
    """Name `source` in at most about 200 printable characters, without its data or a URL's secrets."""
    if isinstance(source, Mapping) and source.get("path"):
        return describe_source(source["path"])
    if isinstance(source, Mapping):
        source = source.get("bytes")
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"<bytes, {len(source)} B>"
    if isinstance(source, Image.Image):
        file_name = getattr(source, "filename", "")
        return (
            describe_source(file_name) if file_name else f"<PIL image, {source.mode}, {source.width}x{source.height}>"
        )
    if isinstance(source, np.ndarray) or is_tensor(source):
        kind = "array" if isinstance(source, np.ndarray) else "tensor"
        return f"<{kind}, {source.dtype}, shape {tuple(source.shape)}>"
    if isinstance(source, str):
        if source[:5].lower() == "data:" or _looks_like_base64(source):
            return f"<base64 or data URI, {len(source)} characters>"
        if _URL_START.match(source):
            # A signed URL carries its secret in the query, others carry a password before the host.
            source = re.sub(r"//[^/]*@", "//", re.split(r"[?#]", source, maxsplit=1)[0])
    if not isinstance(source, (str, os.PathLike)):
        source_name = getattr(source, "name", None)
        return describe_source(source_name) if isinstance(source_name, str) else f"<{type(source).__name__}>"
    text = "".join(c if c.isprintable() else "?" for c in os.fsdecode(source))
    return repr(text if len(text) <= 200 else f"{text[:40]}...{text[-157:]}")


def _looks_like_base64(text: str) -> bool:
    return len(text) >= _MIN_BASE64 and _BASE64.fullmatch(text) is not None and not os.path.isfile(text)


def open_stream(source: Any, name: str, timeout: float | None) -> BinaryIO:
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
        "PIL image, array, torch tensor, or a dict with 'bytes' or 'path'",
    )


def _open_file(path: Path, name: str) -> BinaryIO:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise ImageLoadError(name, "it is a directory; give the path of one image file")
        if not stat.S_ISREG(mode):  # reading a pipe or a device could block forever
            kinds = {stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
            raise ImageLoadError(name, f"it is {kinds.get(stat.S_IFMT(mode), 'a device')}, not a regular file")
        return path.open("rb")
    except OSError as error:
        raise ImageLoadError(name, _explain_unopened(error, path)) from error


def _explain_unopened(error: OSError, path: Path) -> str:
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return "it is a link to a file that does not exist" if path.is_symlink() else "there is no such file"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if error.errno == errno.ELOOP:
        return "it is a link that leads back to itself"
    return f"the file cannot be opened ({error.strerror or error})"


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


def is_tensor(source: Any) -> bool:
    """Whether it is a torch tensor; where nobody imported torch there is none."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(source, torch.Tensor)


def picture_of_array(source: Any, name: str) -> Image.Image:
    """The picture that an array or a torch tensor holds.

    Values: uint8 0..255; uint16 0..65535; float 0..1 (an overshoot of one level of 255 is cut off); bool.
    Layout: (height, width), or three dimensions of which one of 1, 3 or 4 is the channels: the last one in an array and
    the first one in a tensor, where both could be.

    Raises:
        ImageLoadError: another type, shape or range.
    """
    tensor = is_tensor(source)
    if tensor:
        source = source.detach().cpu()
        # numpy has no bfloat16
        array = (source.float() if source.is_floating_point() else source).numpy()
    else:
        array = np.asarray(source)  # also drops the mask of a masked array
    kind = "tensor" if tensor else "array"
    array = _channels_last(_levels(array, name, kind), name, kind, channels_first=tensor)
    return Image.fromarray(np.ascontiguousarray(array))


def _channels_last(array: np.ndarray, name: str, kind: str, channels_first: bool) -> np.ndarray:
    shape = tuple(array.shape)
    places = [
        place for place in ((0, 2) if channels_first else (2, 0)) if array.ndim == 3 and shape[place] in _CHANNELS
    ]
    if array.size == 0 or not (array.ndim == 2 or places):
        many = "; of a batch give its images one by one, e.g. list(batch)" if array.ndim == 4 else ""
        raise ImageLoadError(
            name,
            f"the {kind} has shape {shape}; allowed: (height, width), (height, width, 1, 3 or 4) or "
            f"(1, 3 or 4, height, width){many}",
        )
    if places:
        array = np.moveaxis(array, places[0], -1)
    return array[:, :, 0] if places and array.shape[2] == 1 else array


def _levels(array: np.ndarray, name: str, kind: str) -> np.ndarray:
    """The values of an array as uint8."""
    if array.dtype == np.uint8 or array.size == 0:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:
        return scale_16_bit(array)
    if array.dtype.kind != "f":
        raise ImageLoadError(
            name,
            f"the {kind} is {array.dtype}; allowed: uint8 with values 0 to 255, uint16 with 0 to 65535, float with 0 to 1",
        )
    low, high = float(array.min()), float(array.max())
    if not (low >= -_TOLERANCE and high <= 1 + _TOLERANCE):  # written so that NaN is refused
        raise ImageLoadError(
            name,
            f"the {kind} is {array.dtype} with values from {low:g} to {high:g}; allowed: 0 to 1 (not normalised), or uint8 "
            "with 0 to 255",
        )
    return np.rint(array.clip(0, 1).astype(np.float32) * 255).astype(np.uint8)


def scale_16_bit(values: np.ndarray) -> np.ndarray:
    """round(v / 257) of 16-bit values as uint8, so that 65535 is white."""
    values = values.astype(np.uint16)
    # In 16 bits: above 65407 the sum would overflow, and all of those values are white.
    return ((np.minimum(values, 65407) + 128) // 257).astype(np.uint8)
