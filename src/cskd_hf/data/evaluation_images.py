"""The images that a model will be judged by, from wherever they are listed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets

from .locations import open_source
from .ratings.checks import RatingsError
from .ratings.columns import COLUMN_NAMES
from .ratings.locations import HUB, open_ratings, split_location
from .ratings.parquet import is_converted
from .ratings.tables import read_table
from .sources import DatasetSource, FolderSource, ImageSource

_LISTS = (".csv", ".tsv", ".jsonl", ".parquet")
_IMAGE = (*COLUMN_NAMES["image"], "image_id", "id")
_SPLIT = (*COLUMN_NAMES["split"], "set")
_TRAINING = frozenset({"train", "training"})


class ListedSource:
    """Images that a table names.

    Args:
        paths: relative to `folder`, or ids without a picture.
        folder: where they are.
    """

    def __init__(self, paths: Sequence[str], folder: Path) -> None:
        self.paths, self.folder = list(paths), folder

    def __len__(self) -> int:
        return len(self.paths)

    def key(self, index: int) -> str:
        return self.paths[index]

    def read(self, index: int) -> Path:
        return self.folder / self.paths[index]


def open_evaluation(location: str) -> ImageSource:
    """Evaluation images of one place.

    Args:
        location: a folder of images; a Parquet file or saved dataset; a data set of the field as `NAME:DIR`, or one on
            the Hub as `hub:organisation/name`; or a list of rated images (.csv, .tsv, .jsonl). Pictures of a list or of
            a `NAME:DIR` need not be there: their names are compared then. Where there are splits, all but the training
            split are taken; `#` and names choose others: `ratings.csv#test`, `ava:DIR#validation,test`.

    Raises:
        FileNotFoundError: nothing is there, or it holds no image.
        RatingsError: a list without a column of images, or without the split that is asked for.
    """
    place, _, chosen = location.partition("#") if not Path(location).exists() else (location, "", "")
    splits = [name.strip() for name in chosen.split(",") if name.strip()]
    path = Path(place)
    name = split_location(place)[0]
    if name or is_converted(path):
        return _from_dataset(open_ratings(place, images=None if name in ("", HUB) else "ignore"), splits, place)
    if not path.exists():
        raise FileNotFoundError(f"evaluation images '{place}': there is no such file or folder.")
    if path.suffix.lower() in _LISTS and path.is_file():
        if path.suffix.lower() == ".parquet" and not _names_files(path):
            return _from_dataset(datasets.Dataset.from_parquet(str(path)), splits, place)
        return _from_list(path, splits)
    if (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file():
        return _from_dataset(datasets.load_from_disk(str(path)), splits, place)
    if splits:
        raise RatingsError(f"'{place}' has no splits to choose {splits} from; leave out what follows the '#'.")
    source = open_source(place)
    return source if isinstance(source, FolderSource) else _from_dataset(source, splits, place)


def _names_files(parquet: Path) -> bool:
    """Whether its images are paths in a text column, not pictures."""
    import pyarrow.parquet

    schema = pyarrow.parquet.read_schema(parquet)
    column = _column(schema.names, _IMAGE)
    return column is not None and str(schema.field(column).type) in ("string", "large_string")


def _column(present: Sequence[str], known: Sequence[str]) -> str | None:
    return next((own for name in known for own in present if own.lower() == name), None)


def _from_list(path: Path, splits: list[str]) -> ListedSource:
    table, _ = read_table(path)
    column = _column(list(table), _IMAGE)
    if column is None:
        raise RatingsError(f"{path}: there is no column {' | '.join(_IMAGE)}; the file has {list(table)}; rename one.")
    split = _column(list(table), _SPLIT)
    rows = _rows(table[split] if split else None, len(table[column]), splits, str(path))
    return ListedSource([str(table[column][row]) for row in rows if table[column][row] is not None], path.parent)


def _from_dataset(dataset: Any, splits: list[str], place: str) -> DatasetSource:
    if isinstance(dataset, datasets.DatasetDict):
        parts = [name for name in dataset for _ in range(len(dataset[name]))]
        dataset = datasets.concatenate_datasets([part.remove_columns(_spare(part)) for part in dataset.values()])
    else:
        split = _column(dataset.column_names, _SPLIT)
        parts = dataset[split][:] if split else None
    rows = _rows(parts, len(dataset), splits, place)
    return DatasetSource(dataset.select(rows) if len(rows) < len(dataset) else dataset)


def _spare(dataset: datasets.Dataset) -> list[str]:
    return [name for name in dataset.column_names if name not in ("image", "key")]


def _rows(parts: Sequence[Any] | None, total: int, splits: list[str], place: str) -> list[int]:
    if parts is None:
        if splits:
            raise RatingsError(f"'{place}' has no column of splits to choose {splits} from; leave out the '#'.")
        return list(range(total))
    present = {str(part) for part in parts}
    if missing := [name for name in splits if name not in present]:
        raise RatingsError(f"'{place}' has no split {missing}; its splits: {', '.join(sorted(present))}.")
    wanted = splits or [name for name in present if name.lower() not in _TRAINING] or list(present)
    return [row for row, part in enumerate(parts) if str(part) in wanted]
