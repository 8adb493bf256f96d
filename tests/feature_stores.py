"""Small feature stores, and what they are made of."""

from __future__ import annotations

from pathlib import Path

import torch

from cskd_hf.data.collection import ImageCollection
from cskd_hf.data.sources import FolderSource
from cskd_hf.data.teacher_features import FeatureStore
from cskd_hf.data.views import ViewSettings

VIEWS = ViewSettings(size=16, scale=(0.5, 1.0))


class Colour:
    """A frozen encoder: the mean colour."""

    def __init__(self, name: str = "encoder-a") -> None:
        self.name = name

    def __call__(self, crops: torch.Tensor) -> torch.Tensor:
        return crops.float().mean((2, 3))

    def fingerprint(self) -> str:
        return self.name


def build(folder: Path, photographs: str, encoder=None, n_views=3, **options) -> FeatureStore:
    images = ImageCollection([FolderSource(photographs)])
    options = {"shard_size": 7, "quiet": True} | options
    return FeatureStore.open_or_build(folder, encoder or Colour(), images, views=VIEWS, n_views=n_views, **options)


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}
