"""From a decoded picture of any mode to upright 8-bit sRGB: depth, transparency, colour profiles, orientation.

The file is shipped to the Hub beside the model, so it imports the standard library, numpy and Pillow only.
"""

from __future__ import annotations

import functools
import io

import numpy as np
from PIL import Image, ImageCms

from .image_sources_cskd import ImageLoadError, scale_16_bit

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
_PHOTOMETRIC_TAG, _WHITE_IS_ZERO = 262, 0
_TOLERANCE = 1 / 255
# Pillow scales the pixels of these PNG files to 8 bit, but not the value that stands for transparent.
_TRANSPARENT_SCALE = {"L;2": 85, "L;4": 17}


def raw_mode(image: Image.Image) -> str | None:
    """How the pixels lie in the file, as Pillow names it (e.g. "RGB;16B"); known only before they are loaded."""
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else None
    if isinstance(arguments, tuple):
        arguments = arguments[0] if arguments else None
    return arguments if isinstance(arguments, str) else None


def upright_srgb(image: Image.Image, name: str, raw: str | None = None, *, owned: bool = False) -> Image.Image:
    """A new upright picture of mode RGB, opaque, in sRGB.

    Args:
        image: a loaded picture of any mode; it is not modified.
        name: for errors.
        raw: its `raw_mode`, from before it was loaded.
        owned: nobody else has the picture, so the new one may take over its pixels.

    Raises:
        ImageLoadError: its values have no known range.
    """
    orientation = _orientation(image)  # after load(): Pillow turns TIFF files itself and then drops their tag
    profile = image.info.get("icc_profile")
    colours, alpha = _split_alpha(_to_8_bit(_with_scaled_transparency(image, raw), name, raw))
    colours = _to_srgb(colours, profile)
    if alpha is not None:
        white = Image.new("RGB", colours.size, "white")
        white.paste(colours, mask=alpha)
        colours = white
    if orientation in _UPRIGHT:
        colours = colours.transpose(_UPRIGHT[orientation])
    if colours is image:
        # `_new` is `copy` less the copying, which for a large photograph takes half as long as decoding it.
        colours = image._new(image.im) if owned else image.copy()
    colours.info = {}  # a leftover orientation tag would turn the picture once more in other libraries
    return colours


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF data must not cost us an intact picture
        return 1


def _with_scaled_transparency(image: Image.Image, raw: str | None) -> Image.Image:
    transparent, scaled = image.info.get("transparency"), None
    if raw in _TRANSPARENT_SCALE and isinstance(transparent, int):
        scaled = transparent * _TRANSPARENT_SCALE[raw]
    elif raw == "RGB;16B" and isinstance(transparent, tuple):
        scaled = tuple(value >> 8 for value in transparent)  # Pillow keeps the high byte of each pixel
    if scaled is not None:
        image = image.copy()
        image.info["transparency"] = scaled
    return image


def _to_8_bit(image: Image.Image, name: str, raw: str | None) -> Image.Image:
    """Scale modes I;16*, I and F to 8-bit grey; other modes pass through.

    16-bit values v become round(v / 257), so that 65535 is white. Floats are taken as 0..1 or, where any exceeds 2, as
    0..255; between the two lies no picture that anybody would know the meaning of.
    """
    if not (image.mode.startswith("I") or image.mode == "F"):
        return image
    values = np.asarray(image)  # (height, width)
    low, high = values.min(), values.max()
    if image.mode == "F":
        return Image.fromarray(_grey_of_floats(values, float(low), float(high), name))
    if not (low >= 0 and high <= 65535):
        raise ImageLoadError(
            name,
            f"its pixels (mode {image.mode}) range from {low:g} to {high:g}, allowed: 0 to 65535; store it as 8 bit",
        )
    values = values.astype(np.uint16)
    transparent = image.info.get("transparency")
    clear = values == transparent if isinstance(transparent, int) else None
    if raw == "I;12":
        values = values << 4 | values >> 8
    # Pillow turns 8-bit pictures of this kind round, and leaves those of 16 bit.
    if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC_TAG) == _WHITE_IS_ZERO:
        values = 65535 - values
    result = Image.fromarray(scale_16_bit(values))
    if clear is not None:
        result.putalpha(Image.fromarray(np.where(clear, 0, 255).astype(np.uint8)))
    return result


def _grey_of_floats(values: np.ndarray, low: float, high: float, name: str) -> np.ndarray:
    if -_TOLERANCE <= low and high <= 1 + _TOLERANCE:
        return np.rint(values.clip(0, 1) * 255).astype(np.uint8)
    if low >= 0 and 2 <= high <= 255:
        return np.rint(values).astype(np.uint8)
    # NaN comes here too
    raise ImageLoadError(
        name,
        f"its pixels (mode F) range from {low:g} to {high:g}, allowed: 0 to 1, or 0 to 255 with some above 2; store it as "
        "8 bit",
    )


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
    """Mode RGB through the embedded ICC profile, or by Pillow's plain conversion; the picture itself where it is that."""
    if image.mode == "LAB":  # the only mode that Pillow cannot convert by itself
        return ImageCms.profileToProfile(
            image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    if profile:
        try:
            mode = _profile_mode(image.mode, profile)
            if mode is not None and not (mode == "RGB" and _is_srgb(profile)):
                fitting = image if image.mode == mode else image.convert(mode)
                return ImageCms.applyTransform(fitting, _transform(profile, mode))
        except Exception:  # a broken profile: the plain conversion is what viewers show
            pass
    return image if image.mode == "RGB" else image.convert("RGB")


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
