"""Batches of views from one or several streams of images, the same for a resumed run and for any number of processes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from ..models.image_loading_cskd import ImageLoadError
from .order import ImageOrder
from .sources import ImageCollection
from .teacher_features import FeatureStore
from .views import ViewSettings, cut_view, stack_crops

logger = logging.getLogger(__name__)

_SUBSTITUTES = 32  # neighbours tried in place of an unreadable image


@dataclass
class ImageStream:
    """One kind of images in a batch, e.g. the rated or the unrated ones.

    Args:
        images: where they come from.
        order: in which order they are drawn.
        batch_size: how many of them each process has in each batch.
        views: how they are cut.
        seed: of the cuts.
        n_views: number of different views of an image, one after another; none for a new one on every pass.
        targets: further values of each image by name, tensors with one row an image.
        features: stored features by name; in a batch, `features/<name>`.
    """

    images: ImageCollection
    order: ImageOrder
    batch_size: int
    views: ViewSettings
    seed: int = 0
    n_views: int | None = None
    targets: dict[str, torch.Tensor] = field(default_factory=dict)
    features: dict[str, FeatureStore] = field(default_factory=dict)

    def sample(self, index: int, view: int) -> dict[str, Any]:
        """One view; an unreadable image is replaced by the next readable one and reported under "errors"."""
        errors = []
        for candidate in range(index, index + _SUBSTITUTES):
            candidate %= len(self.images)
            missing = [s.unreadable[candidate] for s in self.features.values() if candidate in s.unreadable]
            if missing:  # when the store was built
                errors.append((self.images.key(candidate), missing[0]))
                continue
            try:
                image = self.images.load(candidate)
            except ImageLoadError as error:
                errors.append((self.images.key(candidate), error.reason))
                continue
            sample = {
                "crop": cut_view(image, self.views, self.seed, candidate, view),
                "index": candidate,
                "view": view,
            }
            sample |= {name: values[candidate] for name, values in self.targets.items()}
            sample |= {f"features/{name}": store[candidate, view] for name, store in self.features.items()}
            return sample | {"errors": errors}
        raise ImageLoadError(
            self.images.key(index), f"unreadable ({errors[0][1]}), and so are the {_SUBSTITUTES - 1} images after it"
        )


class _Draws(Sampler):
    """For each micro-batch the (stream, image, view) of every sample of this process."""

    def __init__(self, streams: dict[str, ImageStream], start: int, stop: int, rank: int, world_size: int) -> None:
        self.streams, self.start, self.stop = streams, start, stop
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return max(self.stop - self.start, 0)

    def __iter__(self) -> Iterator[list[tuple[str, int, int]]]:
        for batch in range(self.start, self.stop):
            yield [draw for name, stream in self.streams.items() for draw in self._draw(batch, name, stream)]

    def _draw(self, batch: int, name: str, stream: ImageStream) -> Iterator[tuple[str, int, int]]:
        first = (batch * self.world_size + self.rank) * stream.batch_size
        for position in range(first, first + stream.batch_size):
            index, epoch = stream.order(position)
            yield name, index, epoch % stream.n_views if stream.n_views else epoch


class _Samples(Dataset):
    def __init__(self, streams: dict[str, ImageStream]) -> None:
        self.streams = streams

    def __getitem__(self, draw: tuple[str, int, int]) -> tuple[str, dict[str, Any]]:
        name, index, view = draw
        return name, self.streams[name].sample(index, view)


def collate(samples: list[tuple[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Samples -> for each stream a dict with `crops` uint8 (batch, 3, side, side), `index`, `view`, targets, `errors`."""
    batch: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(name for name, _ in samples):
        rows = [row for stream, row in samples if stream == name]
        batch[name] = {
            "crops": stack_crops([row.pop("crop") for row in rows]),
            "errors": [error for row in rows for error in row.pop("errors")],
            **{key: torch.stack([torch.as_tensor(row[key]) for row in rows]) for key in rows[0]},
        }
    return batch


def build_loader(
    streams: dict[str, ImageStream], start: int, stop: int, *, rank: int = 0, world_size: int = 1, num_workers: int = 0
) -> DataLoader:
    """Micro-batches number `start` up to `stop` of a run, for one process of `world_size`.

    What is drawn depends on the streams and the batch's number alone: process r of W takes part r of each global
    batch, and a run that is resumed at batch n goes on as if it had never stopped.
    """
    return DataLoader(
        _Samples(streams),
        batch_sampler=_Draws(streams, start, stop, rank, world_size),
        collate_fn=collate,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        # Its own generator: starting a loader must not move the global random state, which resume restores.
        generator=torch.Generator(),
    )


def plain_crops(images: ImageCollection, side: int, indices: Sequence[int] | None = None) -> torch.Tensor:
    """The whole of each image (or of those at `indices`), uint8 `(images, 3, side, side)`; unreadable ones are left out.

    Raises:
        ImageLoadError: none of them can be read.
    """
    plain = ViewSettings(size=side, flip=False)
    crops = []
    for index in range(len(images)) if indices is None else indices:
        try:
            crops.append(cut_view(images.load(index), plain, 0, index, 0))
        except ImageLoadError as error:
            logger.warning("unreadable image left out: %s (%s)", images.key(index), error.reason)
    if not crops:
        raise ImageLoadError(images.key(0), f"none of the {len(images)} images can be read")
    return stack_crops(crops)
