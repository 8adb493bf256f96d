"""The feature store: what a frozen encoder says of fixed, seeded views of many images, computed once.

A folder of memory-mapped shards and a manifest that names everything the features depend on (see `feature_shards`).
A store that does not match the run, or its own checksums, is refused.
"""

from __future__ import annotations

import hashlib
import logging
import math
import mmap
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .collection import ImageCollection
from .feature_building import STORED_VIEWS_SEED, FeatureBuilder, FrozenEncoder
from .feature_shards import (
    FeatureStoreError,
    ShardLayout,
    StoreFolder,
    check_description,
    find_damage,
    has_store,
    payload_offset,
    read_description,
)
from .views import ViewSettings

__all__ = ["STORED_VIEWS_SEED", "FeatureStore", "FeatureStoreError", "FrozenEncoder", "describe"]

logger = logging.getLogger(__name__)

_FORMAT = 2
# A read makes as much of a file resident as the kernel holds in one piece, up to 2 MiB, and it stays so until it is given
# back. With these numbers that is 64 MiB at most; giving back costs microseconds, since the file stays cached.
_READS_KEPT = 32
_FILES_MAPPED = 256


class FeatureStore:
    """Stored features; `store[index, view]` is a float32 tensor `(dim,)`.

    Files are mapped when they are first read, in each process for itself, and what was read of them is given back every
    few reads: resident memory stays the same however large a store is. A store can be pickled, and used after a fork.

    Args:
        folder: of a finished store.
        manifest: its content.

    Attributes:
        unreadable: why there are no features of an image, by its index.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest
        self.layout = ShardLayout(manifest["images"], manifest["views"], manifest["dim"], manifest["shard_size"])
        self.unreadable = {index: reason for shard in manifest["shards"] for index, _, reason in shard["unreadable"]}
        self._mapped: dict[int, tuple[mmap.mmap, np.ndarray]] = {}
        self._read: list[int] = []  # shards, since memory was last given back

    @property
    def dim(self) -> int:
        return self.layout.dim

    @property
    def n_views(self) -> int:
        return self.layout.views

    def __len__(self) -> int:
        """Number of images."""
        return self.layout.images

    def __getitem__(self, position: tuple[int, int]) -> torch.Tensor:
        index, view = position
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of a store of {len(self)} images")
        shard, row = divmod(index, self.layout.shard_size)
        return torch.from_numpy(self._map(shard)[row, view % self.n_views].astype(np.float32))

    def blocks(self, images: int = 256) -> Iterator[torch.Tensor]:
        """All features that there are, float32 `(images, views, dim)` at a time, without those of unreadable images."""
        for shard in range(len(self.layout)):
            span = self.layout.span(shard)
            for first in range(span.start, span.stop, images):
                rows = [
                    i - span.start for i in range(first, min(first + images, span.stop)) if i not in self.unreadable
                ]
                yield torch.from_numpy(self._map(shard)[rows].astype(np.float32))
            self._give_back()

    def _map(self, shard: int) -> np.ndarray:
        if len(self._read) >= _READS_KEPT:
            self._give_back()
        if shard not in self._mapped:
            file = self.folder / self.layout.file(shard)
            with open(file, "rb") as opened:
                mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
            shape, offset = self.layout.shape(shard), payload_offset(mapped)
            self._mapped[shard] = mapped, np.frombuffer(mapped, np.float16, math.prod(shape), offset).reshape(shape)
        self._read.append(shard)
        return self._mapped[shard][1]

    def _give_back(self) -> None:
        if len(self._mapped) > _FILES_MAPPED or not hasattr(mmap, "MADV_DONTNEED"):
            self._mapped.clear()
        for shard in self._mapped.keys() & set(self._read):
            self._mapped[shard][0].madvise(mmap.MADV_DONTNEED)
        self._read.clear()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_mapped": {}, "_read": []}

    @classmethod
    def open(cls, folder: str | os.PathLike, expected: dict[str, Any], verify: bool = True) -> FeatureStore:
        """Open a finished store for a run.

        Args:
            folder: of the store.
            expected: `describe(...)` of the run.
            verify: compare the checksums of all shards; one process of a run is enough for that.

        Raises:
            FeatureStoreError: damaged, not finished, or made of something else; the message says what differs, or which
                shard is damaged.
        """
        folder = Path(folder)
        manifest = read_description(folder)
        check_description(folder, manifest, expected)
        if "shards" not in manifest:
            raise FeatureStoreError(
                f"the feature store '{folder}' is not finished; go on with the run that builds it."
            )
        started = time.perf_counter()
        for file, wrong in find_damage(folder, manifest["shards"], verify).items():
            raise FeatureStoreError(
                f"'{folder / file}' {wrong}. Remove that file and run again: the features of its images alone are then "
                "computed again."
            )
        store = cls(folder, manifest)
        if verify:
            logger.info(
                "stored features '%s': %d images x %d views x %d, %d unreadable; checksums verified in %.1f s",
                folder, len(store), store.n_views, store.dim, len(store.unreadable), time.perf_counter() - started,
            )  # fmt: skip
        return store

    @classmethod
    def open_or_build(
        cls,
        folder: str | os.PathLike,
        encoder: FrozenEncoder,
        images: ImageCollection,
        *,
        views: ViewSettings,
        n_views: int,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        shard_size: int | None = None,
        quiet: bool = False,
    ) -> FeatureStore:
        """Open the store of these images, views and encoder where it is whole; else compute what is missing of it.

        All processes of a run call it; they share the work, see [`FeatureBuilder`] for the arguments. The first of them
        verifies the checksums.
        """
        folder = Path(folder)
        description = describe(images, encoder, views=views, n_views=n_views)
        if not _is_whole(folder, description):
            FeatureBuilder(
                folder, encoder, images, views=views, n_views=n_views, description=description, rank=rank,
                world_size=world_size, num_workers=num_workers, shard_size=shard_size, quiet=quiet,
            ).run()  # fmt: skip
        return cls.open(folder, description, verify=rank == 0)


def _is_whole(folder: Path, description: dict[str, Any]) -> bool:
    if not has_store(folder):
        return False
    found = read_description(folder)
    check_description(folder, found, description)
    return StoreFolder(
        folder, ShardLayout(*(found[key] for key in ("images", "views", "dim", "shard_size")))
    ).is_whole()


def stored_views(folder: str | os.PathLike) -> int | None:
    """Number of views in a store, finished or not; none where there is no store."""
    return read_description(Path(folder))["views"] if has_store(Path(folder)) else None


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
        "format": _FORMAT,
        "encoder": encoder.fingerprint(),
        "images": len(images),
        "keys": keys,
        "views": n_views,
        "seed": STORED_VIEWS_SEED,
        "cut": cut,
    }
