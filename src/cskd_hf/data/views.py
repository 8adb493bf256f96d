"""Seeded views of an image, and the preprocessing that each encoder applies to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

_INTERPOLATIONS = {"nearest": 0, "bilinear": 2, "bicubic": 3}


@dataclass(frozen=True)
class ViewSettings:
    """How views are cut.

    Args:
        size: side of the square view in pixels.
        scale: smallest and largest share of the image's area in a view; (1, 1) keeps the whole image.
        ratio: narrowest and widest aspect ratio of the cut, relative to the image's own.
        flip: mirror every second view of an image.
    """

    size: int
    scale: tuple[float, float] = (1.0, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True

    def __post_init__(self) -> None:
        low, high = self.scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"view scale {self.scale} must be two rising shares above 0, at most 1, e.g. 0.3 1.0.")

    @property
    def source_side(self) -> int:
        """Short side in pixels that an image needs so that the smallest cut is not enlarged."""
        return math.ceil(self.size / math.sqrt(self.scale[0]))


def cut_view(image: Image.Image, settings: ViewSettings, seed: int, index: int, view: int) -> np.ndarray:
    """View number `view` of an image: a random resized crop that depends on nothing but its arguments.

    Two consecutive views of an image are one plain and one mirrored, so a pair of stored views holds both.

    Returns:
        uint8 array `(size, size, 3)`.
    """
    rng = np.random.default_rng((seed, 3, index, view))
    flip = settings.flip and (rng_bit(seed, index) + view) % 2 == 1
    if settings.scale == (1.0, 1.0):
        box = None
    else:
        box = _random_box(rng, image.size, settings)
    if box is not None or image.size != (settings.size, settings.size):
        image = image.resize((settings.size, settings.size), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
    pixels = np.asarray(image)
    return pixels[:, ::-1] if flip else pixels


def rng_bit(seed: int, index: int) -> int:
    """A fair coin for each image."""
    return int(np.random.default_rng((seed, 4, index)).integers(2))


def _random_box(
    rng: np.random.Generator, size: tuple[int, int], settings: ViewSettings
) -> tuple[float, float, float, float]:
    width, height = size
    area = rng.uniform(*settings.scale)
    ratio = math.exp(rng.uniform(math.log(settings.ratio[0]), math.log(settings.ratio[1])))
    w = min(math.sqrt(area * ratio), 1.0) * width
    h = min(math.sqrt(area / ratio), 1.0) * height
    left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
    return left, top, left + w, top + h


@dataclass(frozen=True)
class Preprocessing:
    """What an encoder does to a square view: resize, scale to 0..1, normalise. Runs on whole batches, on any device.

    Args:
        size: height and width in pixels.
        mean, std: of each channel, for pixel values in 0..1.
        interpolation: "bicubic", "bilinear" or "nearest"; reduced with antialiasing, as PIL does.
        flip_channels: give the channels as blue, green, red, as MobileViT wants them.
    """

    size: tuple[int, int]
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bicubic"
    flip_channels: bool = False

    def __post_init__(self) -> None:
        if self.interpolation not in _INTERPOLATIONS:
            raise ValueError(
                f"interpolation={self.interpolation!r} is not known; allowed: {', '.join(_INTERPOLATIONS)}."
            )

    def __call__(self, crops: torch.Tensor) -> torch.Tensor:
        """uint8 `(batch, 3, side, side)` -> normalised float32 `(batch, 3, height, width)`."""
        return self.prepare(crops.float() / 255)

    def prepare(self, pixels: torch.Tensor) -> torch.Tensor:
        """Values of 0 to 1 `(batch, 3, any, any)` -> normalised `(batch, 3, height, width)`; differentiable."""
        if pixels.shape[-2:] != self.size:
            antialias = self.interpolation != "nearest"
            options = {"antialias": True, "align_corners": False} if antialias else {}
            pixels = F.interpolate(pixels, size=self.size, mode=self.interpolation, **options).clamp(0, 1)
        if self.flip_channels:
            pixels = pixels.flip(1)
        mean = torch.tensor(self.mean, dtype=pixels.dtype, device=pixels.device)[:, None, None]
        std = torch.tensor(self.std, dtype=pixels.dtype, device=pixels.device)[:, None, None]
        return (pixels - mean) / std

    @classmethod
    def from_image_processor(cls, processor: Any) -> Preprocessing:
        """The preprocessing of a transformers image processor, for views that are already cut."""
        if getattr(processor, "rescale_offset", False):
            raise ValueError(
                f"{type(processor).__name__} has rescale_offset=True, which this preprocessing does not do; give the "
                "encoder's folder another processor, e.g. Preprocessing(...).to_image_processor().save_pretrained(folder)."
            )
        size = dict(getattr(processor, "size", None) or {})
        if not size and getattr(processor, "max_num_patches", None):  # SigLIP 2: the largest square it takes
            size = {"shortest_edge": processor.patch_size * math.isqrt(processor.max_num_patches)}
        crop = getattr(processor, "crop_size", None) if getattr(processor, "do_center_crop", False) else None
        size = dict(crop) if crop else size
        if "height" in size and "width" in size:
            sides = (int(size["height"]), int(size["width"]))
        elif "shortest_edge" in size:
            sides = (int(size["shortest_edge"]),) * 2
        else:
            raise ValueError(
                f"{type(processor).__name__} has the size {size}, which names no fixed height and width; give the "
                "encoder's preprocessing yourself."
            )
        if processor.do_rescale and not math.isclose(processor.rescale_factor, 1 / 255, rel_tol=1e-3):
            raise ValueError(
                f"{type(processor).__name__} has rescale_factor {processor.rescale_factor}; only 1/255 is known."
            )
        flip = bool(getattr(processor, "do_flip_channel_order", False))
        # MobileViT's processor, the one for images that has the flag at all, never normalises.
        has_flag = hasattr(processor, "do_flip_channel_order")
        normalise = getattr(processor, "do_normalize", True) and not has_flag
        # EfficientNet's processor divides by the std a second time.
        power = 2 if getattr(processor, "include_top", False) else 1
        names = {code: name for name, code in _INTERPOLATIONS.items()}
        return cls(
            size=sides,
            mean=tuple(processor.image_mean) if normalise else (0.0,) * 3,
            std=tuple(std**power for std in processor.image_std) if normalise else (1.0,) * 3,
            interpolation=names.get(int(processor.resample), "bicubic"),
            flip_channels=flip,
        )

    def to_image_processor(self) -> Any:
        """A built-in transformers processor of this preprocessing: needs neither remote code nor torchvision.

        It resizes the whole image to (height, width), without a crop, since a crop would cut composition away.

        Raises:
            ValueError: channels are flipped and normalised, which no built-in processor does.
        """
        if self.flip_channels:
            return self._flipping_processor()
        from transformers import SiglipImageProcessor

        return SiglipImageProcessor(
            size={"height": self.size[0], "width": self.size[1]},
            resample=_INTERPOLATIONS[self.interpolation],
            image_mean=list(self.mean),
            image_std=list(self.std),
        )

    def _flipping_processor(self) -> Any:
        from transformers import MobileViTImageProcessor

        if (tuple(self.mean), tuple(self.std)) != ((0.0,) * 3, (1.0,) * 3):
            raise ValueError(
                f"no built-in image processor flips the channels and normalises them (mean {self.mean}, std {self.std}); "
                "take mean (0, 0, 0) and std (1, 1, 1), or flip_channels=False."
            )
        return MobileViTImageProcessor(
            size={"height": self.size[0], "width": self.size[1]},
            resample=_INTERPOLATIONS[self.interpolation],
            do_center_crop=False,
            do_convert_rgb=True,
        )


def stack_crops(crops: Sequence[np.ndarray]) -> torch.Tensor:
    """uint8 arrays `(side, side, 3)` -> one uint8 tensor `(batch, 3, side, side)`."""
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).contiguous()
