"""The order in which images are drawn: a function of (seed, position), so that a resumed run draws the same."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

_BLOCK = 1000  # positions over which the sources' shares hold exactly


class ImageOrder:
    """Endless draw of image indices from one or several sources, without replacement within a pass.

    Without weights all images form one pool, and every image is drawn once before any is drawn twice. With weights
    each source gets its share of every block of 1,000 positions, and the same holds within each source.

    Args:
        sizes: number of images of each source, none for a stream, whose images have no index; indices run over the
            sources one after another.
        weights: share of each source, any positive scale; none for one pool.
        seed: another seed, another order.

    Raises:
        ValueError: no images, or weights that do not fit the sources.
    """

    def __init__(self, sizes: Sequence[int | None], weights: Sequence[float] | None = None, seed: int = 0) -> None:
        streams = [size is None for size in sizes]
        if not sizes or min((size for size in sizes if size is not None), default=1) < 1:
            raise ValueError(f"each source needs at least one image; sizes given: {list(sizes)}.")
        if weights and (len(weights) != len(sizes) or min(weights) <= 0):
            raise ValueError(
                f"{len(sizes)} sources need {len(sizes)} weights above 0; given: {list(weights)}. "
                "Leave the weights out to draw every image equally often."
            )
        if any(streams) and len(sizes) > 1 and not weights:
            raise ValueError(
                f"a stream's length is not known, so {len(sizes)} sources with a stream among them need {len(sizes)} "
                "weights, e.g. --image-weights 1 1."
            )
        self.seed = seed
        self._arguments = (list(sizes), list(weights) if weights else None, seed)
        self._sizes = list(sizes) if weights or streams == [True] else [sum(sizes)]
        self._offsets = np.concatenate([[0], np.cumsum([size or 0 for size in self._sizes])])
        self._counts = largest_remainder(weights, _BLOCK) if weights else np.array([_BLOCK])
        self._pattern = lru_cache(maxsize=4)(self._pattern)
        self._permutation = lru_cache(maxsize=2 * len(self._sizes))(self._permutation)

    def __reduce__(self) -> tuple[Any, ...]:
        return ImageOrder, self._arguments  # its caches cannot be sent to another process

    def __len__(self) -> int:
        """Number of images of all sources together, without those of streams."""
        return int(self._offsets[-1])

    def __call__(self, position: int) -> tuple[int, int]:
        """Image index and number of earlier passes over its source, for a position 0, 1, 2, ... that is no stream's."""
        source, nth = self.draw(position)
        epoch, within = divmod(nth, self._sizes[source])
        return int(self._offsets[source] + self._permutation(source, epoch)[within]), epoch

    def draw(self, position: int) -> tuple[int, int]:
        """The source that a position belongs to, and how many earlier positions are of the same source.

        Sources without weights are one source, number 0.
        """
        if len(self._sizes) == 1:
            return 0, position
        block, offset = divmod(position, _BLOCK)
        pattern = self._pattern(block)
        source = int(pattern[offset])
        return source, block * int(self._counts[source]) + int((pattern[:offset] == source).sum())

    def drawn(self, source: int, batches: int, batch_size: int, part: int = 0, parts: int = 1) -> int:
        """How many images of a source one of several processes has drawn in the first batches.

        Args:
            source: its number.
            batches: of every process.
            batch_size: of one process.
            part, parts: which process of how many.
        """
        if len(self._sizes) == 1:
            return batches * batch_size
        total, count = batches * batch_size * parts, 0
        for block in range(-(-total // _BLOCK)):
            positions = np.arange(block * _BLOCK, min((block + 1) * _BLOCK, total))
            own = positions // batch_size % parts == part
            count += int((own & (self._pattern(block)[: len(positions)] == source)).sum())
        return count

    def _pattern(self, block: int) -> np.ndarray:
        pattern = np.repeat(np.arange(len(self._sizes)), self._counts)
        return np.random.default_rng((self.seed, 1, block)).permutation(pattern)

    def _permutation(self, source: int, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, 2, source, epoch)).permutation(self._sizes[source])


def largest_remainder(weights: Sequence[float], total: int) -> np.ndarray:
    """Divide `total` whole things by weights, by largest remainder; each weight gets one at least."""
    exact = np.asarray(weights, dtype=float) / sum(weights) * total
    counts = np.maximum(np.floor(exact).astype(int), 1)
    for source in np.argsort(np.floor(exact) - exact)[: max(total - counts.sum(), 0)]:
        counts[source] += 1
    while counts.sum() > total:  # where small weights were lifted to one
        counts[counts.argmax()] -= 1
    return counts
