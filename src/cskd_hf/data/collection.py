"""Several sources of images as one list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ..models.image_loading_cskd import load_image
from .leak_guard import LeakGuard
from .sources import ImageSource, SourceSubset
from .streaming import StreamSource


class ImageCollection:
    """Several sources as one list of images, optionally held decoded in memory.

    A source may also be a [`StreamSource`](streaming.py): its images have no index and do not count in `len`, and
    `ImageStream` draws them in the order in which they come.

    Args:
        sources: their images get consecutive indices.
        target_side: short side in pixels that is enough for what follows; larger JPEGs are decoded at reduced scale.
        cache: keep decoded images, reduced to `target_side`, in memory after their first use.
    """

    def __init__(
        self, sources: Sequence[ImageSource | StreamSource], target_side: int | None = None, cache: bool = False
    ) -> None:
        self.sources = list(sources)
        self.streams = {number: source for number, source in enumerate(self.sources) if not hasattr(source, "__len__")}
        self.sizes = [None if number in self.streams else len(source) for number, source in enumerate(self.sources)]
        self.target_side = target_side
        self._offsets = np.concatenate([[0], np.cumsum([size or 0 for size in self.sizes])])
        self._cache: dict[int, Image.Image] | None = {} if cache else None
        self.leak_guard: LeakGuard | None = None  # what it matches is left out of streams

    @property
    def indexed(self) -> bool:
        """Whether every image has an index, as a feature store needs it."""
        return not self.streams

    @property
    def damage(self) -> list[tuple[str, str, str]]:
        """Source, shard and reason of whatever was found damaged when the sources were opened."""
        return [(s.name, key, reason) for s in self.sources for key, reason in getattr(s, "damage", ())]

    def __len__(self) -> int:
        return int(self._offsets[-1])

    def _locate(self, index: int) -> tuple[ImageSource, int]:
        number = int(np.searchsorted(self._offsets, index, side="right")) - 1
        return self.sources[number], index - int(self._offsets[number])

    def key(self, index: int) -> str:
        source, within = self._locate(index)
        return source.key(within)

    def source_name(self, index: int) -> str:
        return self._locate(index)[0].name

    def read(self, index: int) -> Any:
        """The image as it is stored, not decoded: whatever `load_image` takes (a path, bytes, or a dict of both)."""
        source, within = self._locate(index)
        return source.read(within)

    def subset(self, rows: Sequence[int] | np.ndarray) -> ImageCollection:
        """The images at `rows`, in rising order. Every source keeps its place, also one
        that loses all its images, and streams stay whole."""
        rows = np.unique(np.asarray(rows, dtype=np.int64))
        if len(rows) and not 0 <= rows[0] <= rows[-1] < len(self):
            raise ValueError(f"rows {rows[0]} to {rows[-1]} are not all among the {len(self)} images.")
        cuts = np.searchsorted(rows, self._offsets)
        kept = [
            source if number in self.streams else SourceSubset(source, rows[first:last] - offset)
            for number, (source, offset, first, last) in enumerate(zip(self.sources, self._offsets, cuts, cuts[1:]))
        ]
        images = ImageCollection(kept, self.target_side, self._cache is not None)
        images.leak_guard = self.leak_guard
        return images

    def load(self, index: int) -> Image.Image:
        """The decoded RGB image.

        Raises:
            ImageLoadError: it cannot be read.
        """
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        image = load_image(self.read(index), target_size=self.target_side)
        if self._cache is not None:
            self._cache[index] = image = _reduced(image, self.target_side)
        return image


def _reduced(image: Image.Image, side: int | None) -> Image.Image:
    short = min(image.size)
    if side is None or short <= side:
        return image
    width, height = (max(round(length * side / short), 1) for length in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
