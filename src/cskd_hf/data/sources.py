"""Images by index: those of a folder, of a Hugging Face dataset, or some of another source."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import datasets
import numpy as np

from .ratings.schema import descriptions_of

WEBDATASET_KEY = "__key__"
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

    Attributes:
        descriptions: what a rated set says of itself, see `ratings.schema.descriptions_of`.

    Raises:
        ValueError: no such column, no image column, or several of them.
    """

    def __init__(
        self, dataset: datasets.Dataset, column: str | None = None, key_column: str = "key", name: str = "dataset"
    ) -> None:
        if column is None:
            (column,) = image_columns(dataset.features, name)
        if column not in dataset.column_names:
            raise ValueError(f"the dataset has no column '{column}'; its columns: {', '.join(dataset.column_names)}.")
        self.name = name
        self.descriptions = descriptions_of(dataset)
        named = [name for name in (key_column, WEBDATASET_KEY) if name in dataset.column_names]
        self._keys = dataset[named[0]][:] if named else None
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


def image_columns(features: datasets.Features | None, name: str, several: bool = False) -> list[str]:
    """Columns that hold images: `image` where there is one, else those of the type `Image`, else those that hold bytes.

    Args:
        features: of the dataset.
        name: of the source in reports.
        several: allow more than one, as WebDataset shards have one for each extension.

    Raises:
        ValueError: there is none, or more than one.
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
    if "image" in images:
        return ["image"]
    if len(images) > 1 and not several:
        raise ValueError(f"'{name}' has several image columns: {', '.join(images)}; rename the one to use to 'image'.")
    return images


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
        return f"{self.name.rstrip('/')}/{self.source.key(index)}"

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
