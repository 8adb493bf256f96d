"""The general scorer that personal ones start from, and what it makes of images."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..data.views import Preprocessing
from ..evaluation.predict import load_scorer
from ..files import replaced_folder
from ..models.image_loading_cskd import ImageLoadError, load_image
from ..models.modeling_cskd import CSKDForImageAesthetics
from .taste import RatedFeatures


class Base:
    """The general scorer, and what it makes of images; each image is read once.

    Args:
        name: Hub name or folder of a scorer.
        folder: that image paths start from.
        pixels: keep pixel values as well as features, for vectors of layers.
    """

    def __init__(self, name: str, folder: str | os.PathLike, pixels: bool = False) -> None:
        self.model, self.preprocessing = load_scorer(name)
        self.model.eval()
        self.folder = Path(folder)
        self.unreadable: dict[str, str] = {}
        self._keep_pixels = pixels
        self._pixels: dict[str, torch.Tensor] = {}
        self._features: dict[str, torch.Tensor] = {}

    @property
    def scale(self) -> tuple[float, float]:
        """Lowest and highest score."""
        values = self.model.config.score_values
        return float(values[0]), float(values[-1])

    @torch.no_grad()
    def read(self, images: Mapping[str, Any], quiet: bool) -> None:
        """Encode images by key, each once; those that cannot be read are noted and left out."""
        processor = self.preprocessing.to_image_processor()
        for key, image in tqdm(images.items(), desc="encoding images", unit="image", disable=quiet):
            if key in self._features or key in self.unreadable:
                continue
            place = self.folder / image if isinstance(image, (str, os.PathLike)) else image
            try:
                picture = load_image(place)
            except ImageLoadError as error:
                self.unreadable[key] = error.reason
                continue
            pixels = processor(images=picture, return_tensors="pt")["pixel_values"]
            self._features[key] = self.model.encode(pixels)[0][0].float()
            if self._keep_pixels:
                self._pixels[key] = pixels[0]

    def rated(self, ratings: Mapping[str, float]) -> tuple[RatedFeatures, torch.Tensor | None]:
        """Features, and pixels where they are kept, of the images of one rater that can be read."""
        keys = [key for key in ratings if key in self._features]
        values = torch.tensor([ratings[key] for key in keys], dtype=torch.float64)
        features = torch.stack([self._features[key] for key in keys]) if keys else torch.zeros(0, 1)
        return RatedFeatures(features, values), torch.stack([self._pixels[key] for key in keys]) if self._pixels and keys else None  # fmt: skip


def save_scorer(model: CSKDForImageAesthetics, preprocessing: Preprocessing, folder: Path) -> None:
    """Model and image processor, whole or not at all."""
    with replaced_folder(folder) as partial:
        model.save_pretrained(partial)
        preprocessing.to_image_processor().save_pretrained(partial)


def tell_unreadable(general: Base) -> None:
    """Say on the console how many images could not be read."""
    if general.unreadable:
        key, reason = next(iter(general.unreadable.items()))
        print(
            f"{len(general.unreadable)} images could not be read and were left out, e.g. {key}: {reason}",
            file=sys.stderr,
        )
