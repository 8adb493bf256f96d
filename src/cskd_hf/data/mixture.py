"""The unlabelled images of a run: several places as one collection, and the part of it that is kept for evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from .collection import ImageCollection
from .locations import open_source


def open_images(locations: Sequence[str], target_side: int, cache: bool) -> ImageCollection:
    """All images of several places, see `open_source`."""
    return ImageCollection([open_source(location) for location in locations], target_side, cache)


def split_holdout(images: ImageCollection, holdout: int) -> tuple[ImageCollection, ImageCollection]:
    """Training and held-out images.

    They are taken evenly spaced from all sources with an index, so that the same are held out whatever the seed. Where
    there are only streams, each gives the first of its images, and training skips those.

    Raises:
        ValueError: half or more of the images would be held out.
    """
    if not len(images):
        return images, _first_of_streams(images, holdout)
    offsets = np.concatenate([[0], np.cumsum([size or 0 for size in images.sizes])])
    if holdout >= offsets[-1] / 2:
        raise ValueError(
            f"holdout={holdout} is half or more of the {offsets[-1]} unlabelled images; give --holdout a smaller number."
        )
    held = ((np.arange(holdout) + 0.5) * offsets[-1] / holdout).astype(int)
    for first, last in zip(offsets, offsets[1:]):
        inside = held[(held >= first) & (held < last)]
        if len(inside) and len(inside) == last - first:
            held = held[held != inside[-1]]  # every source keeps an image to train on
    rest = np.setdiff1d(np.arange(offsets[-1]), held)
    held_out = images.subset(held)
    kept = [source for source, size in zip(held_out.sources, held_out.sizes) if size]
    return images.subset(rest), ImageCollection(kept, images.target_side)


def _first_of_streams(images: ImageCollection, count: int) -> ImageCollection:
    shares = np.diff(np.linspace(0, count, len(images.streams) + 1).astype(int))
    held = [source.first(int(share), hold_out=True) for source, share in zip(images.streams.values(), shares)]
    for rows, share in zip(held, shares):
        if len(rows) < share:
            raise ValueError(
                f"holdout={count} asks for the first {share} images of '{rows.name}', which has {len(rows)}; give "
                "--holdout a smaller number."
            )
    return ImageCollection([rows for rows in held if len(rows)], images.target_side)


def sample_images(images: ImageCollection, count: int) -> ImageCollection:
    """Some of the images: evenly spaced among those with an index, or where there are none, the first of the streams."""
    if len(images):
        return images.subset(torch.linspace(0, len(images) - 1, min(count, len(images))).long().numpy())
    share = -(-count // len(images.streams))
    rows = [source.first(share) for source in images.streams.values()]
    return ImageCollection([source for source in rows if len(source)], images.target_side)
