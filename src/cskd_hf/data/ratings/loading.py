"""Labelled data: read it from a file, in the one schema that `schema` describes.

ratings = load_ratings("ratings.csv")
train = select_split(ratings, "train")
few = rated_subset(train, n=100, seed=0)
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc

from .checks import Problems, RatingsError, check_images, check_keys, check_score_values, parse_bins, parse_numbers
from .columns import find_columns
from .faults import UnknownScaleError
from .parquet import is_converted, load_converted
from .schema import (
    SCHEMA_COLUMNS,
    attributes_of,
    build_ratings,
    has_score_values,
    score_values_of,
    select_split,
)
from .tables import FORMATS, infer_numbers, parse_list, read_table
from .votes import add_up, holds_votes, votes_of_table

logger = logging.getLogger(__name__)


def load_ratings(
    path: str | os.PathLike,
    *,
    image_dir: str | os.PathLike | None = None,
    score_values: Sequence[float] | None = None,
    columns: Mapping[str, Any] | None = None,
    split: str | None = None,
    attributes: Mapping[str, Sequence[float]] | None = None,
    images: str = "require",
) -> datasets.Dataset:
    """Read labelled data of any common layout into the one schema.

    Columns are found by name (`COLUMN_NAMES`). The votes are one list column, or one numbered column a bin
    (`votes_1`..., `c1`..., `score_1`...), whose suffix is the rating of the bin: `votes_1.5` counts the votes for 1.5.
    Whole numbers are vote counts; other numbers are shares that sum to 1. Mean, std and number of votes are computed
    from the votes where there are any. Columns of no known name are kept as extra columns.

    A file may also have one row a vote: `columns` names the vote or the rater, or images repeat and there is a column
    `rating` (or `score`, beside one of raters); see `votes`. The votes for each image are added up.

    Args:
        path (`str` or `Path`): A .csv, .tsv, .jsonl or .parquet file, or a folder written by `save_to_disk` or by
            `cskd-hf data convert`.
        image_dir (`str` or `Path`, *optional*): Folder that relative image paths start from; default the folder of
            the file.
        score_values (`Sequence[float]`, *optional*): The rating each bin stands for, increasing. Needed unless the
            columns are numbered: a file of means says nothing about the ends of its scale.
        columns (`Mapping`, *optional*): Names in this file of the columns of the schema, e.g. `{"mean": "my_score"}`;
            `None` leaves a column out. For `distribution` also a list of columns, one a bin, or a pattern such as
            `"aestheticScore_*"` for numbered columns.
        split (`str`, *optional*): Return only this split. A file without a split column is all `"train"`.
        attributes (`Mapping`, *optional*): Columns that hold mean ratings of attributes, with the ends of their scales,
            e.g. `{"color": (1, 5)}`.
        images (`str`, *optional*): What becomes of rows whose image file is missing: `"require"`, `"drop"` or `"ignore"`,
            see `build_ratings`.

    Returns:
        `datasets.Dataset`: The rated set; see `schema` for its columns.

    Raises:
        RatingsError: The data cannot be used; names the file, row, column, value, and what is allowed.
    """
    path = Path(path)
    if path.is_dir() or is_converted(path):
        ds = _load_dataset(path, image_dir, score_values, columns, attributes, images)
    else:
        table, row_names = read_table(path)
        root = path.parent if image_dir is None else image_dir
        ds = ratings_from_table(
            table, row_names, str(path), path.stem, root, score_values, columns or {}, attributes, images
        )
    return ds if split is None else select_split(ds, split)


def _load_dataset(
    path: Path,
    image_dir: str | os.PathLike | None,
    score_values: Sequence[float] | None,
    columns: Mapping[str, Any] | None,
    attributes: Mapping[str, Sequence[float]] | None,
    images: str,
) -> datasets.Dataset:
    try:
        ds = load_converted(path) if is_converted(path) else datasets.load_from_disk(str(path))
    except FileNotFoundError as error:
        raise RatingsError(
            f"{path}: it is a folder not written by save_to_disk; allowed: {FORMATS}; a data set of the field is named "
            "with its folder, e.g. ava:DIR."
        ) from error
    if isinstance(ds, datasets.DatasetDict):
        if not all("split" in part.column_names for part in ds.values()):
            ds = {name: part.add_column("split", [name] * len(part)) for name, part in ds.items()}
        ds = datasets.concatenate_datasets(list(ds.values()))
    if has_score_values(ds) and not columns and not attributes:
        return _checked(ds, path, image_dir, score_values, images)
    for name, feature in ds.features.items():
        if isinstance(feature, datasets.Image):
            ds = ds.cast_column(name, datasets.Image(decode=False))
    row_names = [f"row {row + 1}" for row in range(len(ds))]
    if has_score_values(ds) and score_values is None:
        score_values = score_values_of(ds)
    attributes = attributes_of(ds) | dict(attributes or {})
    table = ds.to_dict()
    return ratings_from_table(
        table, row_names, str(path), path.name, image_dir, score_values, columns or {}, attributes, images
    )


def _checked(
    ds: datasets.Dataset,
    path: Path,
    image_dir: str | os.PathLike | None,
    score_values: Sequence[float] | None,
    images: str,
) -> datasets.Dataset:
    """A rated set that was saved as one: its labels were checked then, its files and keys may have changed since."""
    own = score_values_of(ds)
    if score_values is not None and check_score_values(score_values) != own:
        raise RatingsError(f"{path}: `score_values` is {list(score_values)}, the set was saved with {list(own)}.")
    if missing := [name for name in SCHEMA_COLUMNS if name not in ds.column_names]:
        raise RatingsError(f"{path}: the columns {missing} are missing; save the rated set with all its columns.")
    cells = ds.select_columns("image").with_format("arrow")[:]["image"]  # not as Python: it may be all the bytes
    paths, without_bytes = pc.struct_field(cells, "path"), pc.is_null(pc.struct_field(cells, "bytes"))
    rows = np.flatnonzero(without_bytes.to_numpy(zero_copy_only=False)).tolist()
    problems = Problems(str(path), [f"row {row + 1}" for row in rows])
    absent = check_images(pc.filter(paths, without_bytes).to_pylist(), image_dir, problems, "image", images)[2]
    gone = {rows[at] for at in {*absent, *problems.rows}}
    repeated = Problems(str(path))
    check_keys(ds["key"][:], ds["split"][:], repeated, "key")
    problems.raise_if_any()
    repeated.raise_if_any()
    gone |= repeated.rows
    if not gone:
        return ds
    if len(gone) == len(ds):
        raise RatingsError(f"{path}: none of its {len(ds)} rows can be used; their images are missing.")
    if absent:
        logger.warning("%s: %d of %d images are not on disk and were left out.", path, len(absent), len(ds))
    return ds.select([row for row in range(len(ds)) if row not in gone])


def ratings_from_table(
    table: dict[str, list],
    row_names: list[str],
    source: str,
    name: str,
    image_dir: str | os.PathLike | None,
    score_values: Sequence[float] | None,
    mapping: Mapping[str, Any],
    attributes: Mapping[str, Sequence[float]] | None = None,
    images: str = "require",
) -> datasets.Dataset:
    """Find the columns of the schema in `table` and build the rated set."""
    if holds_votes(table, source, mapping):
        votes = votes_of_table(table, row_names, source, mapping)
        data, row_names = add_up(votes, score_values, attributes or {})
        data = {own: cells if own in SCHEMA_COLUMNS else infer_numbers(cells) for own, cells in data.items()}
        known_as, problems = {**votes.names, "key": votes.names.get("key", votes.names["image"])}, None
    else:
        problems = Problems(source, row_names)
        data, known_as, score_values = _columns_of(table, source, score_values, mapping, problems)
    return build_ratings(
        data,
        score_values,
        name=name,
        image_dir=image_dir,
        source=source,
        row_names=row_names,
        column_names=known_as,
        attributes=attributes,
        images=images,
        problems=problems,
    )


def _columns_of(
    table: dict[str, list],
    source: str,
    score_values: Sequence[float] | None,
    mapping: Mapping[str, Any],
    problems: Problems,
) -> tuple[dict[str, Any], dict[str, Any], Sequence[float]]:
    """The columns of the schema and the extra ones, what the file calls them, and the rating of each bin."""
    found = find_columns(table, source, mapping)
    bins = found.pop("distribution", None)
    data = {column: table[own] for column, own in found.items()}
    if isinstance(bins, dict):
        score_values = _values_of_numbered(bins, score_values, source)
        bins = [bins[value] for value in score_values]
    if isinstance(bins, list):
        data["distribution"] = _votes_of_bins(table, bins, score_values, source, problems)
    elif bins is not None:
        data["distribution"] = [parse_list(cell) for cell in table[bins]]
    if score_values is None:
        raise UnknownScaleError(
            f"{source}: the ends of the scale are unknown; pass `score_values`, the rating of each bin, e.g. "
            "score_values=[1, 2, 3, 4, 5], or name the vote columns votes_1, votes_2, ...",
            _ends_of(table[found["mean"]], source) if bins is None else None,
        )
    used = {*found.values(), *(bins if isinstance(bins, list) else [bins])}
    # A column that bears a name of the schema, but was not chosen for it, would be mistaken for it later.
    extra = {
        own: infer_numbers(cells) for own, cells in table.items() if own not in used and own not in SCHEMA_COLUMNS
    }
    return data | extra, {**found, **({} if bins is None else {"distribution": bins})}, score_values


def _values_of_numbered(
    bins: Mapping[float, str], score_values: Sequence[float] | None, source: str
) -> tuple[float, ...]:
    """The rating of each bin, from the numbers in the columns' names."""
    values = check_score_values(sorted(bins)) if score_values is None else check_score_values(score_values)
    if set(values) != set(bins):
        raise RatingsError(
            f"{source}: `score_values` is {list(values)}, but the numbered columns {list(bins.values())} stand for "
            f"{sorted(bins)}; leave it out, or list the columns with columns={{'distribution': [...]}}."
        )
    return values


def _votes_of_bins(
    table: Mapping[str, list],
    bins: Sequence[str],
    score_values: Sequence[float] | None,
    source: str,
    problems: Problems,
) -> list[np.ndarray | None]:
    """One row of votes an image, of one column a bin; None where there are none or something is wrong with them."""
    if score_values is None:
        raise UnknownScaleError(
            f"{source}: {len(bins)} columns hold votes; pass `score_values` with {len(bins)} ratings."
        )
    if len(check_score_values(score_values)) != len(bins):
        raise RatingsError(
            f"{source}: {len(bins)} columns hold votes, but `score_values` has {len(score_values)}: {list(score_values)}."
        )
    return parse_bins(table, bins, problems, optional=True)


def _ends_of(cells: Sequence, source: str) -> tuple[float, float] | None:
    numbers = parse_numbers(cells, Problems(source), "mean")
    return None if np.isnan(numbers).all() else (float(np.nanmin(numbers)), float(np.nanmax(numbers)))
