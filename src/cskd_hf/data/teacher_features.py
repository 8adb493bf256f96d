"""The feature store: what a frozen encoder says of fixed, seeded views of many images, computed once.

A folder with `features.safetensors` (images, views, dim) in float16, memory-mapped, and `manifest.json`, which names
everything the features depend on. A store that does not match the run, or its own checksum, is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tqdm import tqdm

from ..models.image_loading_cskd import ImageLoadError
from .sources import ImageCollection
from .views import ViewSettings, cut_view, stack_crops

STORED_VIEWS_SEED = 0  # one for all runs, so that runs of other seeds share a store
_FEATURES, _MANIFEST = "features.safetensors", "manifest.json"


class FeatureStoreError(ValueError):
    """A store is damaged, or was made for another run."""


class FrozenEncoder(Protocol):
    """What a store can be made of: a module in evaluation mode that names its own state."""

    def __call__(self, crops: torch.Tensor) -> torch.Tensor:
        """uint8 crops `(batch, 3, side, side)` -> features `(batch, dim)`."""

    def fingerprint(self) -> str:
        """Weights and preprocessing: another text, other features."""


class FeatureStore:
    """Stored features; `store[index, view]` is a float32 tensor `(dim,)`."""

    def __init__(self, features: torch.Tensor, manifest: dict[str, Any]) -> None:
        self.features = features
        self.manifest = manifest

    @property
    def dim(self) -> int:
        return self.features.shape[-1]

    @property
    def n_views(self) -> int:
        return self.features.shape[1]

    def __getitem__(self, position: tuple[int, int]) -> torch.Tensor:
        index, view = position
        return self.features[index, view % self.n_views].float()

    @classmethod
    def open(cls, folder: str | os.PathLike, expected: dict[str, Any]) -> FeatureStore:
        """Open a store for a run.

        Args:
            folder: written by `build`.
            expected: `describe(...)` of the run.

        Raises:
            FeatureStoreError: damaged, or made of something else; the message says what differs.
        """
        folder = Path(folder)
        manifest = json.loads((folder / _MANIFEST).read_text())
        differing = [
            f"{key} is {manifest.get(key)!r} in the store and {value!r} in this run"
            for key, value in json.loads(json.dumps(expected)).items()
            if manifest.get(key) != value
        ]
        if differing:
            raise FeatureStoreError(
                f"the feature store '{folder}' was made for another run: {'; '.join(differing)}. "
                "Give another folder, or remove this one to have it computed again."
            )
        if _checksum(folder / _FEATURES) != manifest["sha256"]:
            raise FeatureStoreError(
                f"'{folder / _FEATURES}' is damaged (checksum differs); remove '{folder}' and run again."
            )
        with safe_open(folder / _FEATURES, framework="pt") as file:
            return cls(file.get_tensor("features"), manifest)

    @classmethod
    def build(
        cls,
        folder: str | os.PathLike,
        encoder: FrozenEncoder,
        images: ImageCollection,
        *,
        views: ViewSettings,
        n_views: int,
        batch_size: int = 64,
        quiet: bool = False,
    ) -> FeatureStore:
        """Compute and write a store; an unreadable image gets zeros and is listed in the manifest under "unreadable".

        Args:
            folder: to write; it appears only when whole.
            encoder: whose outputs are stored.
            images: what to encode.
            views, n_views: as the training stream cuts them, with the seed `STORED_VIEWS_SEED`.
            batch_size: images a forward.
            quiet: no progress bar.
        """
        folder = Path(folder)
        temporary = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
        temporary.mkdir(parents=True)
        try:
            features, unreadable = _encode_all(encoder, images, views, n_views, batch_size, quiet)
            save_file({"features": features}, temporary / _FEATURES)
            manifest = describe(images, encoder, views=views, n_views=n_views) | {
                "unreadable": unreadable,
                "sha256": _checksum(temporary / _FEATURES),
            }
            (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=1))
            try:
                os.replace(temporary, folder)
            except OSError:
                if not folder.is_dir():
                    raise
                # Another run has finished the same store meanwhile.
                return cls.open(folder, describe(images, encoder, views=views, n_views=n_views))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return cls(features, manifest)

    @classmethod
    def open_or_build(
        cls,
        folder: str | os.PathLike,
        encoder: FrozenEncoder,
        images: ImageCollection,
        *,
        views: ViewSettings,
        n_views: int,
        quiet: bool = False,
    ) -> FeatureStore:
        """Open the store of these images, views and encoder where it exists, else compute it."""
        if Path(folder).is_dir():
            return cls.open(folder, describe(images, encoder, views=views, n_views=n_views))
        return cls.build(folder, encoder, images, views=views, n_views=n_views, quiet=quiet)


def describe(images: ImageCollection, encoder: FrozenEncoder, *, views: ViewSettings, n_views: int) -> dict[str, Any]:
    """What the features of a run depend on.

    Args:
        images: their keys, in order.
        encoder: its fingerprint.
        views, n_views: as the stream cuts them.
    """
    keys = hashlib.sha256("\n".join(images.key(i) for i in range(len(images))).encode()).hexdigest()
    cut = {"size": views.size, "scale": list(views.scale), "ratio": list(views.ratio), "flip": views.flip}
    return {
        "encoder": encoder.fingerprint(),
        "images": len(images),
        "keys": keys,
        "views": n_views,
        "seed": STORED_VIEWS_SEED,
        "cut": cut,
    }


def _encode_all(
    encoder: FrozenEncoder,
    images: ImageCollection,
    views: ViewSettings,
    n_views: int,
    batch_size: int,
    quiet: bool,
) -> tuple[torch.Tensor, list[list[str]]]:
    features, unreadable = None, []
    for first in tqdm(range(0, len(images), batch_size), desc="reference features", unit="batch", disable=quiet):
        rows, crops = [], []
        for index in range(first, min(first + batch_size, len(images))):
            try:
                image = images.load(index)
            except ImageLoadError as error:
                unreadable.append([images.key(index), error.reason])
                continue
            rows.append(index)
            crops += [cut_view(image, views, STORED_VIEWS_SEED, index, view) for view in range(n_views)]
        if not rows:
            continue
        encoded = torch.cat([encoder(chunk) for chunk in stack_crops(crops).split(batch_size)]).cpu()
        if features is None:
            features = torch.zeros(len(images), n_views, encoded.shape[-1], dtype=torch.float16)
        features[rows] = encoded.half().view(len(rows), n_views, -1)
    if features is None:
        raise ImageLoadError(images.key(0), f"none of the {len(images)} images can be read")
    return features, unreadable


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
