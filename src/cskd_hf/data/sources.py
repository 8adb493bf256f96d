"""Images by index: those of a folder, of a Hugging Face dataset, and of several such sources as one list."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import datasets
import numpy as np
from PIL import Image

from ..models.image_loading_cskd import load_image

if TYPE_CHECKING:
    from .leak_guard import LeakGuard
    from .streaming import StreamSource

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jfif")


class ImageSource(Protocol):
    """Images by index, each with a key that names it within its source."""

    name: str

    def __len__(self) -> int: ...

    def key(self, index: int) -> str: ...

    def read(self, index: int) -> Any:
        """Anything that `load_image` takes."""


class FolderSource:
    """All images below a folder, sorted by relative path.

    Raises:
        FileNotFoundError: no such folder, or no image in it.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder, self.name = Path(folder), str(folder)
        if not self.folder.is_dir():
            raise FileNotFoundError(f"image folder '{folder}' does not exist or is not a folder.")
        self.paths = list_images(self.folder)
        if not self.paths:
            raise FileNotFoundError(f"no image in '{folder}'; looked for {', '.join(IMAGE_EXTENSIONS)} at any depth.")

    def __len__(self) -> int:
        return len(self.paths)

    def key(self, index: int) -> str:
        return self.paths[index]

    def read(self, index: int) -> Path:
        return self.folder / self.paths[index]


class DatasetSource:
    """The image column of a `datasets.Dataset`.

    Args:
        dataset: a map-style dataset.
        column: its image column; none finds it, see `image_columns`.
        key_column: names the images; row numbers do where the dataset has no such column.
        name: of the source in reports.

    Raises:
        ValueError: no such column, no image column, or several of them.
    """

    def __init__(
        self, dataset: datasets.Dataset, column: str | None = None, key_column: str = "key", name: str = "dataset"
    ) -> None:
        if column is None:
            column, *others = image_columns(dataset.features, name)
            if others:
                raise ValueError(
                    f"'{name}' has several image columns: {', '.join([column, *others])}; rename the one to use to 'image'."
                )
        if column not in dataset.column_names:
            raise ValueError(f"the dataset has no column '{column}'; its columns: {', '.join(dataset.column_names)}.")
        self.name = name
        self._keys = dataset[key_column][:] if key_column in dataset.column_names else None
        self._images = dataset.select_columns([column]).cast_column(column, datasets.Image(decode=False))
        self._column = column

    def __len__(self) -> int:
        return len(self._images)

    def key(self, index: int) -> str:
        return str(self._keys[index]) if self._keys is not None else f"row {index}"

    def read(self, index: int) -> dict[str, Any]:
        return self._images[index][self._column]


class SourceSubset:
    """Some images of a source.

    Args:
        source: the whole of it.
        rows: indices of the images that are kept.
    """

    def __init__(self, source: ImageSource, rows: Sequence[int] | np.ndarray) -> None:
        self.source, self.rows = source, np.asarray(rows, dtype=np.int64)
        self.name = source.name
        self.damage = getattr(source, "damage", [])

    def __len__(self) -> int:
        return len(self.rows)

    def key(self, index: int) -> str:
        return self.source.key(int(self.rows[index]))

    def read(self, index: int) -> Any:
        return self.source.read(int(self.rows[index]))


class RowSource:
    """Images that are at hand already.

    Args:
        rows: a key and what `load_image` takes, for each image.
        name: of the source in reports.
    """

    def __init__(self, rows: Sequence[tuple[str, Any]], name: str = "rows") -> None:
        self.rows, self.name = list(rows), name

    def __len__(self) -> int:
        return len(self.rows)

    def key(self, index: int) -> str:
        return self.rows[index][0]

    def read(self, index: int) -> Any:
        return self.rows[index][1]


def image_columns(features: datasets.Features | None, name: str) -> list[str]:
    """Columns that hold images: `image` where there is one, else all of the type `Image`, else all that hold bytes.

    Raises:
        ValueError: there is none.
    """
    features = features or {}
    images = [column for column, kind in features.items() if isinstance(kind, datasets.Image)]
    if not images:
        # Parquet files that were not written by the datasets library do not say what their bytes are.
        images = [column for column, kind in features.items() if _holds_bytes(kind)]
    if not images:
        raise ValueError(
            f"'{name}' has no image column; needed: a column of the type datasets.Image, or of encoded images as bytes. "
            f"Its columns: {', '.join(f'{column} ({kind})' for column, kind in features.items()) or 'unknown'}."
        )
    return ["image"] if "image" in images else images


def _holds_bytes(kind: Any) -> bool:
    if isinstance(kind, dict):
        kind = kind.get("bytes")
    return isinstance(kind, datasets.Value) and kind.dtype in ("binary", "large_binary")


class NamedSource:
    """A source whose keys say where it is, for reports on several.

    Args:
        source: the images.
        place: put before their keys.
    """

    def __init__(self, source: ImageSource, place: str) -> None:
        self.source, self.name = source, place

    def __len__(self) -> int:
        return len(self.source)

    def key(self, index: int) -> str:
        return f"{self.name}/{self.source.key(index)}"

    def read(self, index: int) -> Any:
        return self.source.read(index)


def list_images(folder: Path) -> list[str]:
    """Relative paths of all images below a folder, sorted; hidden files and folders are left out."""
    found = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        relative = Path(parent).relative_to(folder)
        found += [
            (relative / name).as_posix()
            for name in files
            if name.lower().endswith(IMAGE_EXTENSIONS) and not name.startswith(".")
        ]
    return sorted(found)


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
