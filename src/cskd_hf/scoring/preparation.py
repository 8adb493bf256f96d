"""From a file to the pixels that a model gets: the image door, then the image processor or an exact shortcut of it."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from ..files import plain
from ..models.image_loading_cskd import ImageLoadError, load_image, read_header
from ..models.image_preparation_cskd import resize_side, within_reach
from ..models.image_sources_cskd import describe_source

_LEVELS = 256


class Preparation:
    """Reads an image and prepares it. Can be pickled, and shared by threads.

    The image processors of transformers copy the whole picture several times before they shrink it. Where a processor does
    nothing but resize with Pillow, crop the middle and map each level of a channel, the same is done here by a resize and a
    table; whether it is the same, to the last bit, is tried at the start on pictures of several shapes. Of every other
    processor the processor itself is called.

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
        image = within_reach(image, self.processor, name)
        pixels = self.shortcut(image) if self.shortcut else None
        if pixels is not None:
            return pixels
        try:
            return _processed(self.processor, image)
        except Exception as error:  # as in the pipeline
            reason = f"the image processor cannot prepare it ({type(error).__name__}: {str(error)[:200]})"
            raise ImageLoadError(name, reason) from error


class Shortcut:
    """Resize, crop of the middle, and a table of levels, exactly as a Pillow-backed image processor.

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
        size = _named(getattr(processor, "size", None)) if getattr(processor, "do_resize", False) else {}
        crop = _named(getattr(processor, "crop_size", None)) if getattr(processor, "do_center_crop", False) else {}
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
            image = image.resize(self._resized(image.size), self.resample)
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

    def _resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height after resizing (`get_resize_output_image_size` of transformers, for `shortest_edge`)."""
        if "height" in self.size:
            return self.size["width"], self.size["height"]
        short, long = sorted(size)
        new_long = int(self.size["shortest_edge"] * long / short)
        return (self.size["shortest_edge"], new_long) if size[0] <= size[1] else (new_long, self.size["shortest_edge"])

    def _same_as(self, processor: Any) -> bool:
        """Whether it was tried, and gave the same to the last bit each time."""
        rng = np.random.default_rng(0)
        tried = 0
        for width, height in ((333, 257), (61, 140), (512, 512)):
            image = Image.fromarray(rng.integers(0, _LEVELS, (height, width, 3), dtype=np.uint8))
            pixels = self(image)
            if pixels is None:
                continue
            if not np.array_equal(pixels, _processed(processor, image)):
                return False
            tried += 1
        return tried > 0


def _level_table(processor: Any) -> np.ndarray:
    """What the processor makes of each level, from a picture that holds all: `(3, 256)`."""
    levels = np.arange(_LEVELS, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(np.stack([levels] * 3, axis=-1))
    return _processed(processor, image, do_resize=False, do_center_crop=False).reshape(3, _LEVELS)


def _processed(processor: Any, image: Image.Image, **options: Any) -> np.ndarray:
    return np.asarray(processor(images=image, return_tensors="np", **options)["pixel_values"][0], dtype=np.float32)


def _named(size: Any) -> dict[str, int]:
    """The parts of a size that are given, of a dict or a `SizeDict`."""
    return {key: value for key, value in dict(size or {}).items() if value is not None}
