"""Images that come one after another, from datasets of unknown length: split over processes, shuffled, resumable.

A pass reads the shards in a seeded order. Where the number of shards is a multiple of the number of processes each
process reads shards of its own; otherwise every process reads all of them and keeps one row in so many. It is the rule
of `datasets.distributed.split_dataset_by_node`, written out here so that a damaged shard ends nothing but itself, and
so that the order stays the same from one version of that library to the next.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import datasets
import numpy as np

from ..models.image_loading_cskd import ImageLoadError
from .sources import RowSource, image_columns

_KEY_COLUMNS = ("key", "__key__")


@dataclass
class Row:
    """One image of a stream, not decoded.

    Args:
        key: names it.
        image: what `load_image` takes.
        epoch: number of earlier passes over its source.
        errors: key and reason of whatever could not be read between the row before and this one.
    """

    key: str
    image: Any
    epoch: int = 0
    errors: list[tuple[str, str]] = field(default_factory=list)

    def identity(self) -> int:
        """63 bits of the image's bytes: it has the same views wherever in the stream it stands."""
        data = self.image.get("bytes") or str(self.image.get("path")).encode()
        return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest()) >> 1


class StreamSource:
    """The images of a `datasets.IterableDataset`.

    Args:
        dataset: from `load_dataset(..., streaming=True)`.
        name: of the source in reports.
        shard_names: of its shards in reports; numbers do where there are none.

    Raises:
        ValueError: it has no image column.
    """

    def __init__(self, dataset: datasets.IterableDataset, name: str, shard_names: list[str] | None = None) -> None:
        self.name = name
        # WebDataset shards have one column for each extension: .jpg, .png.
        self._columns = image_columns(dataset.features, name)
        self._key_column = next((column for column in _KEY_COLUMNS if column in dataset.features), None)
        dataset = dataset.select_columns([*self._columns, *filter(None, [self._key_column])])
        for column in self._columns:
            dataset = dataset.cast_column(column, datasets.Image(decode=False))
        self._dataset = dataset
        self.num_shards = dataset.num_shards
        named = shard_names is not None and len(shard_names) == self.num_shards
        self._shard_names = shard_names if named else [f"shard {i}" for i in range(self.num_shards)]
        self._held: dict[int, int] = {}

    def shard(self, number: int) -> Iterator[Row]:
        """The rows of one shard that are not held out; ends with an `ImageLoadError` where it is damaged."""
        held = self._held.get(number, 0)
        return (row for position, row in self._numbered(number) if position >= held)

    def _numbered(self, number: int) -> Iterator[tuple[int, Row]]:
        count = 0
        try:
            for count, cells in enumerate(self._dataset.shard(self.num_shards, number), start=1):
                image = next((cells[column] for column in self._columns if cells[column] is not None), None)
                if image is not None:
                    key = cells[self._key_column] if self._key_column else f"row {count - 1}"
                    yield count - 1, Row(f"{self._shard_names[number]}/{key}", image)
        except Exception as error:  # readers of foreign files and of the network raise anything
            raise ImageLoadError(
                self._shard_names[number],
                f"damaged after {count} rows, the rest of this shard is left out ({type(error).__name__}: {error})",
            ) from error

    def first(self, count: int, hold_out: bool = False) -> RowSource:
        """The first `count` images of the stream, or all where it has fewer; with `hold_out`, training never sees them."""
        rows: list[tuple[str, Any]] = []
        for number in range(self.num_shards):
            try:
                for position, row in islice(self._numbered(number), count - len(rows)):
                    rows.append((row.key, row.image))
                    if hold_out:
                        self._held[number] = position + 1
            except ImageLoadError:
                continue  # training reads the same shard, and reports it
        return RowSource(rows, self.name)


class StreamReader:
    """The endless rows of one process' part of a stream.

    Args:
        source: what is read.
        seed: of the order.
        shuffle_buffer: rows among which the next one is chosen by chance; 0 or 1 keeps the order of a shard.
        part, parts: which part of how many.
    """

    def __init__(self, source: StreamSource, seed: int, shuffle_buffer: int, part: int = 0, parts: int = 1) -> None:
        self.source, self.seed, self.shuffle_buffer = source, seed, shuffle_buffer
        self.part, self.parts = part, parts
        self._own_shards = source.num_shards % parts == 0
        self._lengths: dict[int, int] = {}

    def rows(self, skip: int = 0) -> Iterator[Row]:
        """Rows from number `skip` on, counted over all passes.

        Raises:
            ImageLoadError: a whole pass has no row for this part.
        """
        epoch, errors = 0, []
        while True:
            known = self._length(epoch)
            if known and known <= skip:
                skip -= known
            else:
                drawn = 0
                for drawn, row in enumerate(self._pass(epoch, errors), start=1):
                    row.epoch, row.errors = epoch, errors[:]
                    errors.clear()
                    if drawn > skip:
                        yield row
                if not drawn:
                    raise ImageLoadError(
                        self.source.name,
                        f"a pass over this stream has no image for process {self.part + 1} of {self.parts}"
                        + "".join(f"; {key}: {reason}" for key, reason in errors),
                    )
                skip = max(skip - drawn, 0)
            epoch += 1

    def _pass(self, epoch: int, errors: list[tuple[str, str]]) -> Iterator[Row]:
        order = np.random.default_rng((self.seed, 5, epoch)).permutation(self.source.num_shards).tolist()
        if self._own_shards:
            chance = np.random.default_rng((self.seed, 6, epoch, self.part))
            return _shuffled(self._read(order[self.part :: self.parts], errors), self.shuffle_buffer, chance)
        chance = np.random.default_rng((self.seed, 6, epoch))
        return islice(_shuffled(self._read(order, errors), self.shuffle_buffer, chance), self.part, None, self.parts)

    def _read(self, shards: list[int], errors: list[tuple[str, str]]) -> Iterator[Row]:
        for number in shards:
            count = 0
            try:
                for row in self.source.shard(number):
                    count += 1
                    yield row
            except ImageLoadError as error:
                errors.append((error.source, error.reason))
            else:
                self._lengths[number] = count

    def _length(self, epoch: int) -> int | None:
        """Rows of a pass, where every shard has been read to its end before."""
        if len(self._lengths) < self.source.num_shards // (self.parts if self._own_shards else 1):
            return None
        order = np.random.default_rng((self.seed, 5, epoch)).permutation(self.source.num_shards).tolist()
        own = order[self.part :: self.parts] if self._own_shards else order
        if any(number not in self._lengths for number in own):
            return None
        total = sum(self._lengths[number] for number in own)
        return total if self._own_shards else len(range(self.part, total, self.parts))


def _shuffled(rows: Iterator[Row], size: int, chance: np.random.Generator) -> Iterator[Row]:
    """Each row in turn takes the place of one chosen by chance among the `size` that wait."""
    if size <= 1:
        yield from rows
        return
    waiting = list(islice(rows, size))
    for row in rows:
        place = int(chance.integers(size))
        yield waiting[place]
        waiting[place] = row
    yield from (waiting[place] for place in chance.permutation(len(waiting)).tolist())


class ReadAhead:
    """Rows of an iterator, read by a thread while the caller is busy; `close` ends the thread.

    Args:
        rows: what to read.
        size: how many rows may wait.
    """

    _END = object()

    def __init__(self, rows: Iterator[Row], size: int) -> None:
        self._rows = rows
        self._queue: queue.Queue[Any] = queue.Queue(max(size, 1))
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for row in self._rows:
                if not self._put(row):
                    break
            else:
                self._put(self._END)
        except BaseException as error:  # raised again where the row is asked for
            self._put(error)
        finally:
            self._rows.close()

    def _put(self, item: Any) -> bool:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=0.2)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Iterator[Row]:
        return self

    def __next__(self) -> Row:
        item = self._queue.get()
        if item is self._END:
            raise StopIteration
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        self._stopped.set()
        self._thread.join()
