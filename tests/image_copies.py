"""Copies of a picture as they turn up in collections of images."""

from __future__ import annotations

import io
from collections.abc import Callable

from PIL import Image


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def resize(image: Image.Image, factor: float) -> Image.Image:
    size = (max(round(image.width * factor), 1), max(round(image.height * factor), 1))
    return image.resize(size, Image.Resampling.BICUBIC)


def flip(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "resized to a half": lambda image: resize(image, 0.5),
    "resized to twice": lambda image: resize(image, 2),
    "quality 60": lambda image: jpeg(image, 60),
    "flipped": flip,
    "flipped, a half, quality 80": lambda image: jpeg(resize(flip(image), 0.5), 80),
}
