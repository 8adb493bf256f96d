"""From a file to the pixels that a model gets: the image door, then the image processor or an exact shortcut of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from ..files import plain
from ..models.image_loading_cskd import ImageLoadError, load_image, read_header
from ..models.image_preparation_cskd import prepared_pixels, resize_side
from ..models.image_shortcut_cskd import Shortcut, crop_of, resized, size_of
from ..models.image_sources_cskd import describe_source


class Preparation:
    """Reads an image and prepares it. Can be pickled, and shared by threads.

    Args:
        processor: image processor of transformers.
        reduced_decoding: decode JPEG files at a reduced scale, see `load_image`.
        allow_truncated: take the readable part of a file that breaks off.
    """

    def __init__(self, processor: Any, *, reduced_decoding: bool = False, allow_truncated: bool = False) -> None:
        self.processor = processor
        self.reduced_decoding, self.allow_truncated = reduced_decoding, allow_truncated
        self.target_size = resize_side(processor) if reduced_decoding else None
        self.shortcut = Shortcut.of(processor)

    @property
    def settings(self) -> dict[str, Any]:
        """What the pixels depend on, of what JSON holds."""
        kept = (bool, int, float, str, list, tuple, dict)
        own = {key: value for key, value in self.processor.to_dict().items() if isinstance(value, kept)}
        # One name stands for two classes of transformers, with and without torchvision, whose pixels differ a little.
        own["image_processor_type"] = type(self.processor).__name__
        return {
            "preprocessing": plain(dict(sorted(own.items()))),
            "reduced_decoding": self.reduced_decoding,
            "allow_truncated": self.allow_truncated,
        }

    def __call__(self, source: Any) -> np.ndarray:
        """float32 `(3, height, width)`.

        Args:
            source: what `load_image` takes.

        Raises:
            ImageLoadError: it cannot be read.
        """
        image = load_image(source, target_size=self.target_size, allow_truncated=self.allow_truncated)
        return self.prepared(image, describe_source(source))

    def decoded_pixels(self, source: Any) -> int:
        """How many pixels decoding an image will hold at once, from its header; 0 where that cannot be read, and of a URL,
        which would be fetched twice."""
        if isinstance(source, str) and source.lower().startswith(("http://", "https://")):
            return 0
        try:
            kind, width, height = read_header(source)
        except ImageLoadError:
            return 0  # reading it will say why
        scale = 1
        if self.target_size and kind in ("JPEG", "MPO"):
            while scale < 8 and min(width, height) >= 4 * scale * self.target_size:
                scale *= 2
        return (width // scale) * (height // scale)

    def prepared(self, image: Image.Image, name: str = "<PIL image>") -> np.ndarray:
        """float32 `(3, height, width)`.

        Args:
            image: upright RGB picture.
            name: of the picture, for errors.

        Raises:
            ImageLoadError: the processor cannot take a picture of its shape.
        """
        return prepared_pixels(image, self.processor, self.shortcut, name)


def seen_box(processor: Any, size: tuple[int, int]) -> tuple[float, float, float, float] | None:
    """Which part of a picture a processor leaves: left, top, right and bottom as shares of its width and height.

    Beyond 0 and 1 where a crop larger than the resized picture is filled up. `None` where the processor does something
    else than resize and crop the middle.

    Args:
        processor: image processor of transformers.
        size: width and height of the picture in pixels.
    """
    target, crop = size_of(processor), crop_of(processor)
    # Processors with a `crop_pct` (ConvNeXT, PoolFormer) crop within their resizing, LeViT's resizes to more than it says.
    own = getattr(processor, "crop_pct", None) or type(processor).__name__.startswith("Levit")
    if (
        own
        or getattr(processor, "do_pad", False)
        or (target and target.keys() not in ({"height", "width"}, {"shortest_edge"}))
    ):
        return None
    if crop and crop.keys() != {"height", "width"}:
        return None
    width, height = resized(target, size) if target else size
    if not crop:
        return 0.0, 0.0, 1.0, 1.0
    left, top = (width - crop["width"]) // 2, (height - crop["height"]) // 2
    return left / width, top / height, (left + crop["width"]) / width, (top + crop["height"]) / height
