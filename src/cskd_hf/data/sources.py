"""Where images come from: folders, saved Hugging Face datasets, Parquet files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import datasets
import numpy as np
from PIL import Image

from ..models.image_loading_cskd import load_image

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".jfif")


class ImageSource(Protocol):
    """Images by index, each with a key that names it in reports."""

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
        self.folder = Path(folder)
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
        column: its image column.
        key_column: names the images; row numbers do where the dataset has no such column.
    """

    def __init__(self, dataset: datasets.Dataset, column: str = "image", key_column: str = "key") -> None:
        if column not in dataset.column_names:
            raise ValueError(f"the dataset has no column '{column}'; its columns: {', '.join(dataset.column_names)}.")
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

    def __len__(self) -> int:
        return len(self.rows)

    def key(self, index: int) -> str:
        return self.source.key(int(self.rows[index]))

    def read(self, index: int) -> Any:
        return self.source.read(int(self.rows[index]))


class NamedSource:
    """A source whose keys say where it is, for reports on several.

    Args:
        source: the images.
        place: put before their keys.
    """

    def __init__(self, source: ImageSource, place: str) -> None:
        self.source, self.place = source, place

    def __len__(self) -> int:
        return len(self.source)

    def key(self, index: int) -> str:
        return f"{self.place.rstrip('/')}/{self.source.key(index)}"

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


def open_source(location: str | os.PathLike) -> ImageSource:
    """The images of a folder, of a folder written by `Dataset.save_to_disk`, or of a Parquet file.

    Raises:
        FileNotFoundError: nothing is there, or it holds no image.
    """
    path = Path(location)
    if (path / "dataset_info.json").is_file() and (path / "state.json").is_file():
        return DatasetSource(datasets.load_from_disk(str(path)))
    if path.suffix == ".parquet" and path.is_file():
        return DatasetSource(datasets.Dataset.from_parquet(str(path)))
    return FolderSource(path)


class ImageCollection:
    """Several sources as one list of images, optionally held decoded in memory.

    Args:
        sources: their images get consecutive indices.
        target_side: short side in pixels that is enough for what follows; larger JPEGs are decoded at reduced scale.
        cache: keep decoded images, reduced to `target_side`, in memory after their first use.
    """

    def __init__(self, sources: Sequence[ImageSource], target_side: int | None = None, cache: bool = False) -> None:
        self.sources = list(sources)
        self.sizes = [len(source) for source in self.sources]
        self.target_side = target_side
        self._offsets = np.concatenate([[0], np.cumsum(self.sizes)])
        self._cache: dict[int, Image.Image] | None = {} if cache else None

    def __len__(self) -> int:
        return int(self._offsets[-1])

    def _locate(self, index: int) -> tuple[ImageSource, int]:
        number = int(np.searchsorted(self._offsets, index, side="right")) - 1
        return self.sources[number], index - int(self._offsets[number])

    def key(self, index: int) -> str:
        source, within = self._locate(index)
        return source.key(within)

    def read(self, index: int) -> Any:
        """The image as it is stored, not decoded: whatever `load_image` takes (a path, bytes, or a dict of both)."""
        source, within = self._locate(index)
        return source.read(within)

    def subset(self, rows: Sequence[int] | np.ndarray) -> ImageCollection:
        """The images at `rows`, in rising order. Every source keeps its place, one that loses all its images as well."""
        rows = np.unique(np.asarray(rows, dtype=np.int64))
        if len(rows) and not 0 <= rows[0] <= rows[-1] < len(self):
            raise ValueError(f"rows {rows[0]} to {rows[-1]} are not all among the {len(self)} images.")
        cuts = np.searchsorted(rows, self._offsets)
        kept = [
            SourceSubset(source, rows[first:last] - offset)
            for source, offset, first, last in zip(self.sources, self._offsets, cuts, cuts[1:])
        ]
        return ImageCollection(kept, self.target_side, self._cache is not None)

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
