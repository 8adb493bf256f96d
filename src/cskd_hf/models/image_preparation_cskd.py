"""From the image door to the pixels that a model gets: the scale to decode at, pictures of extreme shape, the image processor.

The file is shipped to the Hub beside the model, so it imports the standard library, numpy, Pillow and its neighbours only.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from PIL import Image

from .image_shortcut_cskd import Shortcut, crop_of, processed, size_of
from .image_sources_cskd import ImageLoadError

MAX_RATIO = 100
"""Long side over short side up to which a picture goes to the image processor as it is."""

_MAX_PREPARED_PIXELS = 64_000_000
# The kept middle is this many times as long as what is cropped from it, so that its ends are not seen.
_MARGIN = 4


def resize_side(processor: Any) -> int | None:
    """Short side in pixels that a processor resizes to, for `load_image(target_size=)`; `None` where it names none.

    Args:
        processor: image processor of transformers.
    """
    size = size_of(processor)
    if size.get("shortest_edge"):
        return math.ceil(size["shortest_edge"] / (getattr(processor, "crop_pct", None) or 1))
    return max((int(side) for side in size.values()), default=None)


def within_reach(image: Image.Image, processor: Any, name: str) -> Image.Image:
    """The picture, or its middle where a processor that keeps the aspect ratio would enlarge it beyond reason.

    A picture of 1 x 10000 pixels has 500 million once its short side is 224. Where the processor crops the middle from
    that, the rest is cut off before; the result differs by at most half a pixel of the source. A picture whose sides
    differ less than `MAX_RATIO` to 1 is returned as it is.

    Args:
        image: upright RGB picture.
        processor: image processor of transformers.
        name: of the picture, for errors.

    Raises:
        ImageLoadError: the processor crops nothing, and the picture would become too large.
    """
    short, long = sorted(image.size)
    size = size_of(processor)
    if long <= MAX_RATIO * short or not size.get("shortest_edge"):
        return image
    target = int(size["shortest_edge"])
    crop = crop_of(processor)
    if crop:
        kept = math.ceil(short * _MARGIN * max(1, max(crop.values()) / target))
        kept += (long - kept) % 2  # so that the middle stays where it is
        left, top = ((image.width - kept) // 2, 0) if image.width == long else (0, (image.height - kept) // 2)
        box = (left, top, left + kept, image.height) if image.width == long else (0, top, image.width, top + kept)
        return image.crop(box)
    if "longest_edge" not in size and target * target * long / short > _MAX_PREPARED_PIXELS:
        raise ImageLoadError(
            name,
            f"{image.width}x{image.height} pixels are too slim for this model, whose image processor would make "
            f"{target}x{int(target * long / short)} of them",
        )
    return image


def prepared_pixels(image: Image.Image, processor: Any, shortcut: Shortcut | None, name: str) -> np.ndarray:
    """What the processor makes of a picture, by the shortcut where there is one: float32 `(3, height, width)`.

    Args:
        image: upright RGB picture.
        processor: image processor of transformers.
        shortcut: `Shortcut.of(processor)`.
        name: of the picture, for errors.

    Raises:
        ImageLoadError: the processor cannot take a picture of its shape.
    """
    image = within_reach(image, processor, name)
    pixels = shortcut(image) if shortcut else None
    if pixels is not None:
        return pixels
    try:
        return processed(processor, image)
    except Exception as error:  # one picture of a shape that a processor cannot take must not end a run over many
        reason = f"the image processor cannot prepare it ({type(error).__name__}: {str(error)[:200]})"
        raise ImageLoadError(name, reason) from error
