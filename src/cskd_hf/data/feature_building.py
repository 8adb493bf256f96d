"""Building a feature store: by one or many processes, on any number of machines, to be killed and gone on with."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from tqdm import tqdm

from ..models.image_loading_cskd import ImageLoadError
from .collection import ImageCollection
from .feature_shards import FeatureStoreError, ShardClaims, ShardLayout, StoreFolder, find_damage
from .views import ViewSettings, cut_view, stack_crops

logger = logging.getLogger(__name__)

STORED_VIEWS_SEED = 0  # one for all runs, so that runs of other seeds share a store
_LOOK_AGAIN = 0.2  # seconds between looks at what other processes have done


class FrozenEncoder(Protocol):
    """What a store can be made of: a module in evaluation mode that names its own state."""

    def __call__(self, crops: torch.Tensor) -> torch.Tensor:
        """uint8 crops `(batch, 3, side, side)` -> features `(batch, dim)`."""

    def fingerprint(self) -> str:
        """Weights and preprocessing: another text, other features."""


class FeatureBuilder:
    """Computes the shards of a store that nobody else has computed or is computing.

    Processes need no connection to each other. Each begins with every `world_size`-th shard, takes over what others
    have not begun (or have left behind, killed), and waits for the rest.

    Args:
        folder: to write.
        encoder: whose outputs are stored.
        images: what to encode.
        views: how views are cut, with the seed `STORED_VIEWS_SEED`.
        n_views: number of views of each image.
        description: what the features depend on.
        rank, world_size: of this process, among those of its run.
        num_workers: processes that decode images.
        batch_size: views a forward.
        shard_size: images a shard; see `ShardLayout.of`.
        quiet: no progress bar.
    """

    def __init__(
        self,
        folder: Path,
        encoder: FrozenEncoder,
        images: ImageCollection,
        *,
        views: ViewSettings,
        n_views: int,
        description: dict[str, Any],
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        batch_size: int = 64,
        shard_size: int | None = None,
        quiet: bool = False,
    ) -> None:
        self.encoder, self.images, self.description = encoder, images, description
        self.views, self.n_views = views, n_views
        self.rank, self.world_size = rank, world_size
        self.num_workers, self.batch_size, self.quiet = num_workers, batch_size, quiet
        dim = encoder(torch.zeros(1, 3, views.size, views.size, dtype=torch.uint8)).shape[1]
        layout = ShardLayout.of(len(images), n_views, dim, shard_size)
        self.folder = StoreFolder.claim(folder, description, layout)
        self.layout = self.folder.layout
        count = range(len(self.layout))
        self.order = sorted(count, key=lambda shard: ((shard - rank) % world_size, shard))

    def run(self) -> None:
        """Return when the store is whole.

        Raises:
            FeatureStoreError: features that float16 cannot hold.
            ImageLoadError: none of the images can be read.
        """
        self._drop_damaged()
        self.claims = ShardClaims(self.folder.path, self.rank, self.world_size)
        hidden = self.quiet or self.rank != 0
        try:
            with tqdm(total=len(self.images), desc="reference features", unit="image", disable=hidden) as self._bar:
                while not self.folder.is_whole():
                    self._shown()
                    done = self.folder.done()
                    pending = [shard for shard in self.order if shard not in done]
                    if any(self.claims.take(shard) for shard in pending):
                        self._encode(pending)
                    elif not pending and self.claims.take(len(self.layout)):
                        self._finish()
                    else:
                        time.sleep(_LOOK_AGAIN)
                self._shown()
        finally:
            self.claims.close()

    def _drop_damaged(self) -> None:
        """Of every process's own shards, remove those that are not what their record says."""
        own = self.folder.done().intersection(range(self.rank, len(self.layout), self.world_size))
        for file, wrong in find_damage(self.folder.path, self.folder.records(own)).items():
            logger.warning("'%s' %s; it is computed again", self.folder.path / file, wrong)
            (self.folder.path / file).unlink(missing_ok=True)

    def _shown(self) -> None:
        """Let the progress bar show what all processes have done."""
        done = sum(len(self.layout.span(shard)) for shard in self.folder.done())
        self._bar.update(done - self._bar.n)

    def _encode(self, pending: list[int]) -> None:
        loader = DataLoader(
            _Views(self.images, self.views, self.n_views),
            batch_sampler=_Unclaimed(self.folder, self.claims, pending, max(self.batch_size // self.n_views, 1)),
            collate_fn=_collate,
            num_workers=self.num_workers,
            # Its own generator: a build must not move the global random state, on which training depends.
            generator=torch.Generator(),
        )
        features, unreadable, seen = None, [], 0
        for shard, rows, crops, errors in loader:
            if features is None:
                features = np.zeros(self.layout.shape(shard), np.float16)
            first = self.layout.span(shard).start
            if rows:
                features[np.array(rows) - first] = self._features(crops, rows)
            unreadable += [[index, self.images.key(index), reason] for index, reason in errors]
            seen += len(rows) + len(errors)
            self._bar.update(len(rows) + len(errors))
            if seen == len(features):
                self.folder.write_shard(shard, features, unreadable)
                self.claims.release(shard)
                features, unreadable, seen = None, [], 0

    @torch.no_grad()
    def _features(self, crops: torch.Tensor, rows: list[int]) -> np.ndarray:
        encoded = torch.cat([self.encoder(chunk).half().cpu() for chunk in crops.split(self.batch_size)])
        encoded = encoded.view(len(rows), self.n_views, -1)
        if not torch.isfinite(encoded).all():
            worst = rows[int((~torch.isfinite(encoded)).flatten(1).any(1).nonzero()[0])]
            raise FeatureStoreError(
                f"the encoder's features of '{self.images.key(worst)}' are not finite in float16 (at most 65504), in which "
                "they would be stored; scale them down, or train with --features live."
            )
        return encoded.numpy()

    def _finish(self) -> None:
        unreadable = sum(len(record["unreadable"]) for record in self.folder.records(self.order))
        if unreadable == len(self.images):
            raise ImageLoadError(self.images.key(0), f"none of the {len(self.images)} images can be read")
        if unreadable:
            logger.warning("%d of %d images cannot be read; they are left out", unreadable, len(self.images))
        self.folder.finish(self.description)
        self.claims.release(len(self.layout))


class _Unclaimed(Sampler):
    """Batches of (shard, image) of the shards that this process can claim."""

    def __init__(self, folder: StoreFolder, claims: ShardClaims, shards: list[int], batch_size: int) -> None:
        self.folder, self.claims, self.shards, self.batch_size = folder, claims, shards, batch_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for shard in self.shards:
            if not self.claims.take(shard):
                continue
            if self.folder.is_done(shard):  # by another process, before the claim
                self.claims.release(shard)
                continue
            span = self.folder.layout.span(shard)
            for first in range(span.start, span.stop, self.batch_size):
                yield [(shard, index) for index in range(first, min(first + self.batch_size, span.stop))]


class _Views(Dataset):
    def __init__(self, images: ImageCollection, views: ViewSettings, n_views: int) -> None:
        self.images, self.views, self.n_views = images, views, n_views

    def __getitem__(self, draw: tuple[int, int]) -> tuple[int, int, list[np.ndarray] | str]:
        """Shard, index and all views of an image, or the reason why it cannot be read."""
        shard, index = draw
        try:
            image = self.images.load(index)
        except ImageLoadError as error:
            return shard, index, error.reason
        return shard, index, [cut_view(image, self.views, STORED_VIEWS_SEED, index, v) for v in range(self.n_views)]


def _collate(
    samples: list[tuple[int, int, list[np.ndarray] | str]],
) -> tuple[int, list[int], torch.Tensor | None, list[tuple[int, str]]]:
    """Samples of one shard -> shard, indices, their views one after another, and (index, reason) of unreadable ones."""
    read = [(index, crops) for _, index, crops in samples if not isinstance(crops, str)]
    errors = [(index, reason) for _, index, reason in samples if isinstance(reason, str)]
    crops = stack_crops([crop for _, crops in read for crop in crops]) if read else None
    return samples[0][0], [index for index, _ in read], crops, errors
