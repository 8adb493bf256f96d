"""What most image processors do with a picture, to the last bit, without the copies that they make of it.

The file is shipped to the Hub beside the model, so it imports the standard library, numpy and Pillow only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

_LEVELS = 256


class Shortcut:
    """Resize, crop of the middle, and a table of levels, exactly as a Pillow-backed image processor.

    The image processors of transformers copy the whole picture several times before they shrink it. Where a processor does
    nothing but resize with Pillow, crop the middle and map each level of a channel, the same is done here by a resize and a
    table; whether it is the same, to the last bit, is tried on pictures of several shapes.

    Args:
        size: `{"height", "width"}` or `{"shortest_edge"}`; empty for none.
        crop: height and width, or `None`.
        resample: filter of Pillow.
        table: value of each level of each channel `(3, 256)`.
    """

    def __init__(self, size: dict[str, int], crop: tuple[int, int] | None, resample: int, table: np.ndarray) -> None:
        self.size, self.crop, self.resample, self.table = size, crop, Image.Resampling(resample), table

    @classmethod
    def of(cls, processor: Any) -> Shortcut | None:
        """The shortcut of a processor, or `None` where it would not give the same."""
        size, crop = size_of(processor), crop_of(processor)
        if size and size.keys() not in ({"height", "width"}, {"shortest_edge"}):
            return None
        if crop and crop.keys() != {"height", "width"}:
            return None
        try:
            table = _level_table(processor)
            shortcut = cls(
                size,
                (int(crop["height"]), int(crop["width"])) if crop else None,
                int(getattr(processor, "resample", None) or 0),
                table,
            )
            return shortcut if shortcut._same_as(processor) else None
        except Exception:  # a processor that cannot do one of the trials does all the work itself
            return None

    def __call__(self, image: Image.Image) -> np.ndarray | None:
        """float32 `(3, height, width)` of an RGB picture; `None` where the crop is larger than the picture."""
        if self.size:
            image = image.resize(resized(self.size, image.size), self.resample)
        if self.crop:
            height, width = self.crop
            left, top = (image.width - width) // 2, (image.height - height) // 2
            if left < 0 or top < 0:
                return None
            image = image.crop((left, top, left + width, top + height))
        levels = np.asarray(image)  # (H, W, 3)
        pixels = np.empty((3, *levels.shape[:2]), dtype=np.float32)
        for channel in range(3):
            np.take(self.table[channel], levels[..., channel], out=pixels[channel])
        return pixels

    def _same_as(self, processor: Any) -> bool:
        """Whether it was tried, and gave the same to the last bit each time."""
        rng = np.random.default_rng(0)
        tried = 0
        for width, height in ((333, 257), (61, 140), (512, 512)):
            image = Image.fromarray(rng.integers(0, _LEVELS, (height, width, 3), dtype=np.uint8))
            pixels = self(image)
            if pixels is None:
                continue
            if not np.array_equal(pixels, processed(processor, image)):
                return False
            tried += 1
        return tried > 0


def resized(target: dict[str, int], size: tuple[int, int]) -> tuple[int, int]:
    """Width and height after resizing (`get_resize_output_image_size` of transformers, for `shortest_edge`).

    Args:
        target: `{"height", "width"}` or `{"shortest_edge"}`.
        size: width and height of the picture.
    """
    if "height" in target:
        return target["width"], target["height"]
    short, long = sorted(size)
    new_long = int(target["shortest_edge"] * long / short)
    return (target["shortest_edge"], new_long) if size[0] <= size[1] else (new_long, target["shortest_edge"])


def all_levels() -> Image.Image:
    """A grey picture of 16 x 16 pixels, each of another level."""
    levels = np.arange(_LEVELS, dtype=np.uint8).reshape(16, 16)
    return Image.fromarray(np.stack([levels] * 3, axis=-1))


def _level_table(processor: Any) -> np.ndarray:
    """What the processor makes of each level: `(3, 256)`."""
    return processed(processor, all_levels(), do_resize=False, do_center_crop=False).reshape(3, _LEVELS)


def processed(processor: Any, image: Image.Image, **options: Any) -> np.ndarray:
    """What the processor itself makes of a picture: float32 `(3, height, width)`.

    Args:
        processor: image processor of transformers.
        image: RGB picture.
        options: of its call.
    """
    # "pt" is what every image processor can give; some can give nothing else.
    return np.asarray(processor(images=image, return_tensors="pt", **options)["pixel_values"][0], dtype=np.float32)


def size_of(processor: Any) -> dict[str, int]:
    """The parts of the size that a processor resizes to, as it names them; empty where it does not resize."""
    return _given(processor, "size") if getattr(processor, "do_resize", False) else {}


def crop_of(processor: Any) -> dict[str, int]:
    """Height and width of the middle that a processor crops; empty where it does not."""
    return _given(processor, "crop_size") if getattr(processor, "do_center_crop", False) else {}


def _given(processor: Any, attribute: str) -> dict[str, int]:
    """The parts that are set, of a dict or a `SizeDict`."""
    return {key: value for key, value in dict(getattr(processor, attribute, None) or {}).items() if value}
