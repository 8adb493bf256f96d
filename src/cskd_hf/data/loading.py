"""Batches of views from one or several streams of images, the same for a resumed run and for any number of processes."""

from __future__ import annotations

import logging
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

from ..models.image_loading_cskd import ImageLoadError, load_image
from .collection import ImageCollection
from .order import ImageOrder
from .streaming import ReadAhead, Row, StreamReader
from .teacher_features import FeatureStore
from .views import ViewSettings, cut_view, stack_crops

logger = logging.getLogger(__name__)

_SUBSTITUTES = 32  # images after an unreadable one that are tried in its place; of a stream, 8 a batch at the least
_STREAM_CANDIDATES = 8
_READ_AHEAD = 2  # batches that a thread reads ahead of a stream
_PREFETCH = 4  # batches that each worker prepares ahead


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
        shuffle_buffer: images of a source without index among which the next one is chosen by chance.

    Raises:
        ValueError: values or features of each image, but images without index.
    """

    images: ImageCollection
    order: ImageOrder
    batch_size: int
    views: ViewSettings
    seed: int = 0
    n_views: int | None = None
    targets: dict[str, torch.Tensor] = field(default_factory=dict)
    features: dict[str, FeatureStore] = field(default_factory=dict)
    shuffle_buffer: int = 1000

    def __post_init__(self) -> None:
        if not self.images.indexed and (self.targets or self.features):
            streamed = ", ".join(source.name for source in self.images.streams.values())
            raise ValueError(
                f"stored features and ratings need images that can be read by index; streamed: {streamed}."
            )

    def sample(self, index: int, view: int) -> dict[str, Any]:
        """One view; an unreadable image is replaced by the next readable one and reported under "errors"."""
        errors = []
        for candidate in range(index, index + _SUBSTITUTES):
            candidate %= len(self.images)
            missing = [s.unreadable[candidate] for s in self.features.values() if candidate in s.unreadable]
            if missing:  # when the store was built
                errors.append((self.images.source_name(candidate), self.images.key(candidate), missing[0]))
                continue
            try:
                image = self.images.load(candidate)
            except ImageLoadError as error:
                errors.append((self.images.source_name(candidate), self.images.key(candidate), error.reason))
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
            self.images.key(index), f"unreadable ({errors[0][2]}), and so are the {_SUBSTITUTES - 1} images after it"
        )

    def streamed_sample(self, rows: list[Row], source: int) -> dict[str, Any]:
        """One view of the first readable of some rows of a stream; the others before it are reported under "errors"."""
        name = self.images.streams[source].name
        errors = [(name, key, reason) for key, reason in rows[0].errors]
        for row in rows:
            try:
                image = self._unleaked(row)
            except ImageLoadError as error:
                errors.append((name, row.key, error.reason))
                continue
            index, view = row.identity(), self.view(row.epoch)
            crop = cut_view(image, self.views, self.seed, index, view)
            return {"crop": crop, "index": index, "view": view, "errors": errors}
        raise ImageLoadError(
            rows[0].key, f"unreadable ({errors[-1][2]}), and so are the {len(rows) - 1} images that could replace it"
        )

    def _unleaked(self, row: Row) -> Image.Image:
        guard = self.images.leak_guard
        if guard is not None and (match := guard.matches(row.image, row.key)):
            raise ImageLoadError(
                row.key, f"left out: a copy of the evaluation image '{match.original}' ({match.kind})"
            )
        return load_image(row.image, target_size=self.images.target_side)

    def view(self, epoch: int) -> int:
        """Number of the view in a pass over the images."""
        return epoch % self.n_views if self.n_views else epoch


@dataclass
class _Draw:
    """One image of a batch: of `stream`, with an index and a view, or else the rows of a streamed source."""

    stream: str
    index: int = 0
    view: int = 0
    source: int = 0
    rows: list[Row] | None = None


class _Draws(Sampler):
    """For each micro-batch the draws of this process; what comes from streamed sources is read here, in one place, so
    that it does not depend on the number of workers."""

    def __init__(self, streams: dict[str, ImageStream], start: int, stop: int, rank: int, world_size: int) -> None:
        self.streams, self.start, self.stop = streams, start, stop
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return max(self.stop - self.start, 0)

    def __iter__(self) -> Iterator[list[_Draw]]:
        readers = {
            (name, source): self._open(stream, source)
            for name, stream in self.streams.items()
            for source in stream.images.streams
        }
        try:
            for batch in range(self.start, self.stop):
                yield [
                    draw for name, stream in self.streams.items() for draw in self._draw(batch, name, stream, readers)
                ]
        finally:
            for reader in readers.values():
                reader.close()

    def _open(self, stream: ImageStream, source: int) -> _Lookahead:
        reader = StreamReader(
            stream.images.streams[source], stream.order.seed, stream.shuffle_buffer, self.rank, self.world_size
        )
        done = stream.order.drawn(source, self.start, stream.batch_size, self.rank, self.world_size)
        return _Lookahead(ReadAhead(reader.rows(skip=done), _READ_AHEAD * stream.batch_size))

    def _draw(
        self, batch: int, name: str, stream: ImageStream, readers: dict[tuple[str, int], _Lookahead]
    ) -> list[_Draw]:
        first = (batch * self.world_size + self.rank) * stream.batch_size
        draws, streamed = [], defaultdict(list)
        for position in range(first, first + stream.batch_size):
            source, _ = stream.order.draw(position)
            if source in stream.images.streams:
                draws.append(_Draw(name, source=source))
                streamed[source].append(draws[-1])
            else:
                index, epoch = stream.order(position)
                draws.append(_Draw(name, index, stream.view(epoch)))
        for source, own in streamed.items():
            rows = readers[name, source].take(len(own), spare=max(_STREAM_CANDIDATES - len(own), 0))
            for number, draw in enumerate(own):
                draw.rows = (rows[number:] + rows[:number])[:_SUBSTITUTES]
        return draws


class _Lookahead:
    """Rows of a stream, with a look at those that follow."""

    def __init__(self, rows: ReadAhead) -> None:
        self._rows = rows
        self._seen: deque[Row] = deque()

    def take(self, count: int, spare: int) -> list[Row]:
        """The next `count` rows, then `spare` more that stay to be taken."""
        while len(self._seen) < count + spare:
            self._seen.append(next(self._rows))
        rows = list(islice(self._seen, count + spare))
        for _ in range(count):
            self._seen.popleft()
        return rows

    def close(self) -> None:
        self._rows.close()


class _Samples(Dataset):
    def __init__(self, streams: dict[str, ImageStream]) -> None:
        self.streams = streams

    def __getitem__(self, draw: _Draw) -> tuple[str, dict[str, Any]]:
        stream = self.streams[draw.stream]
        if draw.rows is not None:
            return draw.stream, stream.streamed_sample(draw.rows, draw.source)
        return draw.stream, stream.sample(draw.index, draw.view)


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
        prefetch_factor=_PREFETCH if num_workers else None,
        # Its own generator: starting a loader must not move the global random state, which resume restores.
        generator=torch.Generator(),
    )


def plain_crops(images: ImageCollection, side: int) -> torch.Tensor:
    """The whole of each image, uint8 `(images, 3, side, side)`; unreadable ones are left out.

    Raises:
        ImageLoadError: none of them can be read.
    """
    plain = ViewSettings(size=side, flip=False)
    crops = []
    for index in range(len(images)):
        try:
            crops.append(cut_view(images.load(index), plain, 0, index, 0))
        except ImageLoadError as error:
            logger.warning("unreadable image left out: %s (%s)", images.key(index), error.reason)
    if not crops:
        raise ImageLoadError(images.key(0), f"none of the {len(images)} images can be read")
    return stack_crops(crops)
