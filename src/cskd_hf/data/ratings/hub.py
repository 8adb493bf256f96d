"""Rated datasets on the Hub: with the columns of the schema, or with other names for them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow.compute as pc

from .checks import RatingsError, check_score_values
from .columns import COLUMN_NAMES
from .loading import ratings_from_table
from .parquet import RATINGS_JSON
from .schema import SCHEMA_COLUMNS, score_values_of, select_split

_NAME = re.compile(r"(?P<path>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>[\w./-]+))?(?::(?P<config>[\w.-]+))?")


def load_hub_ratings(
    name: str,
    *,
    image_dir: str | os.PathLike | None = None,
    score_values: Sequence[float] | None = None,
    columns: Mapping[str, Any] | None = None,
    split: str | None = None,
    attributes: Mapping[str, Sequence[float]] | None = None,
    images: str = "require",
) -> datasets.Dataset:
    """Read a rated dataset of the Hub into the one schema.

    Columns are found by name, or given by `columns`, as in `load_ratings`; the image column also as the only one of
    pictures. Images inside the dataset are neither decoded nor copied. Splits are those of the dataset, unless it has a
    column of them. A row without a path is keyed by split and number: `train-000017`.

    Args:
        name: `organisation/name`, `organisation/name:config`, `organisation/name@revision:config`; or a folder that
            `datasets.load_dataset` reads.
        image_dir, score_values, columns, split, attributes, images: as in `load_ratings`.

    Raises:
        RatingsError: It cannot be loaded, or its data cannot be used.
    """
    place, config, revision = _parse(name)
    ds = _load(place, config, revision, name)
    for column, feature in ds.features.items():
        if isinstance(feature, datasets.Image):
            ds = ds.cast_column(column, datasets.Image(decode=False))
    info = _info(place, revision)
    if info and not columns and not attributes and set(SCHEMA_COLUMNS) <= set(ds.column_names):
        ds.info.description = info
        if score_values and check_score_values(score_values) != score_values_of(ds):
            own = list(score_values_of(ds))
            raise RatingsError(f"'hub:{name}': `score_values` is {list(score_values)}, those of the set are {own}.")
    else:
        ds = _by_columns(ds, name, image_dir, score_values, dict(columns or {}), attributes, images)
    return ds if split is None else select_split(ds, split)


def _parse(name: str) -> tuple[str, str | None, str | None]:
    if Path(name).is_dir():
        return name, None, None
    if not (match := _NAME.fullmatch(name)):
        raise RatingsError(
            f"'hub:{name}' names no dataset; allowed: hub:organisation/name, hub:organisation/name:config, "
            "hub:organisation/name@revision:config, or hub: and a folder of Parquet files."
        )
    return match["path"], match["config"], match["revision"]


def _load(place: str, config: str | None, revision: str | None, name: str) -> datasets.Dataset:
    try:
        parts = datasets.load_dataset(place, config, revision=revision)
    except Exception as error:  # readers of foreign files and of the network raise anything
        raise RatingsError(f"'hub:{name}' cannot be loaded ({type(error).__name__}: {error}).") from error
    if not any(column.lower() in COLUMN_NAMES["split"] for part in parts.values() for column in part.column_names):
        parts = {split: part.add_column("split", [split] * len(part)) for split, part in parts.items()}
    try:
        return datasets.concatenate_datasets(list(parts.values()))
    except ValueError as error:  # columns of the same name and of different types
        raise RatingsError(f"'hub:{name}': its splits {list(parts)} have different columns ({error}).") from error


def _info(place: str, revision: str | None) -> str | None:
    """What the set says of its scales, where `cskd-hf data convert` wrote it."""
    path = Path(place) / RATINGS_JSON
    if not Path(place).is_dir():
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        try:
            path = Path(hf_hub_download(place, RATINGS_JSON, repo_type="dataset", revision=revision))
        except (EntryNotFoundError, LocalEntryNotFoundError):
            return None
    return json.dumps(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def _by_columns(
    ds: datasets.Dataset,
    name: str,
    image_dir: str | os.PathLike | None,
    score_values: Sequence[float] | None,
    columns: dict[str, Any],
    attributes: Mapping[str, Sequence[float]] | None,
    images: str,
) -> datasets.Dataset:
    """The rated set of a dataset whose columns have their own names."""
    pictures = [column for column, feature in ds.features.items() if isinstance(feature, datasets.Image)]
    known = [column for column in ds.column_names if column.lower() in COLUMN_NAMES["image"]]
    if "image" not in columns and len(pictures) == 1 and known in ([], [pictures[0]]):
        columns["image"] = pictures[0]
    picture = columns.get("image") if columns.get("image") in pictures else None
    table = ds.remove_columns([picture] if picture else []).to_dict()
    for column, feature in ds.features.items():
        if isinstance(feature, datasets.ClassLabel):
            table[column] = [None if cell is None else feature.int2str(cell) for cell in table[column]]
    places = _places(table[columns.get("split") or next(own for own in table if own.lower() in COLUMN_NAMES["split"])])
    if picture:
        cells, paths = _without_bytes(ds, picture)
        table[picture] = cells
        if "key" not in columns and not any(column.lower() in COLUMN_NAMES["key"] for column in table):
            unique = None not in paths and len(set(paths)) == len(paths)
            table["key"] = paths if unique else [f"{split}-{number:06d}" for split, number in places]
    row_names = [f"{split} row {number + 1}" for split, number in places]
    rated = ratings_from_table(
        table, row_names, f"hub:{name}", Path(name).name, image_dir, score_values, columns, attributes, images
    )
    return _with_bytes(rated, ds, picture) if picture else rated


def _places(splits: Sequence[str]) -> list[tuple[str, int]]:
    """Split and number in it of each row."""
    counts: dict[str, int] = {}
    places = []
    for split in splits:
        counts[split] = counts.get(split, -1) + 1
        places.append((str(split), counts[split]))
    return places


def _without_bytes(ds: datasets.Dataset, picture: str) -> tuple[list[dict[str, Any]], list[str | None]]:
    """The cells of the image column with the number of the row in place of the bytes, which may be all a memory holds."""
    column = ds.select_columns(picture).with_format("arrow")[:][picture]
    paths = pc.struct_field(column, "path").to_pylist()
    inside = pc.is_valid(pc.struct_field(column, "bytes")).to_pylist()
    cells = [
        {"path": path, "bytes": str(row).encode() if own else None}
        for row, (path, own) in enumerate(zip(paths, inside))
    ]
    return cells, paths


def _with_bytes(rated: datasets.Dataset, ds: datasets.Dataset, picture: str) -> datasets.Dataset:
    """Put the bytes back, in chunks of the dataset's own memory."""
    marks = rated.with_format("arrow")[:]["image"]
    marks = pc.struct_field(marks, "bytes").to_pylist()
    if all(mark is None for mark in marks):
        return rated
    if any(mark is None for mark in marks):
        raise RatingsError(f"the column {picture!r} has some images inside and some as paths; store them in one way.")
    rows = [int(mark) for mark in marks]
    images = ds.select_columns(picture).select(rows)
    if picture != "image":
        images = images.rename_column(picture, "image")
    description, order = rated.info.description, rated.column_names
    joined = datasets.concatenate_datasets([images, rated.remove_columns("image")], axis=1).select_columns(order)
    joined.info.description = description
    return joined
