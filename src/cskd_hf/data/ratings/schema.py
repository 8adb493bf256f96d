"""The one schema of labelled data, and the draws made from it.

A rated set is a `datasets.Dataset` with the columns

| column         | type                              | meaning                                                        |
|----------------|-----------------------------------|----------------------------------------------------------------|
| `image`        | `Image(decode=False)`             | `{"path": ..., "bytes": ...}`, for `load_image`                |
| `distribution` | list of float32, or null          | share of the votes in each bin, sums to 1; null when mean-only |
| `mean`         | float64                           | mean rating, on the scale of `score_values`                    |
| `std`          | float64 or null                   | standard deviation of the votes (population), same scale       |
| `n_votes`      | int64 or null                     | number of votes                                                |
| `split`        | string                            | "train", "validation", "test", ...                             |
| `key`          | string                            | unique name of the image                                       |

and any extra columns behind them. Some of these may be attributes, such as `color`: the mean rating of that side of the
image (float64 or null) on a scale of its own. The rating that each bin stands for, `score_values`, and the scales of the
attributes travel in the description of the dataset's info, so they survive `select`, `filter` and `save_to_disk`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import datasets
import pyarrow as pa
from datasets.table import InMemoryTable

from .checks import (
    Problems,
    RatingsError,
    check_attributes,
    check_images,
    check_keys,
    check_labels,
    check_score_values,
    check_texts,
    suggest,
)

logger = logging.getLogger(__name__)

SCHEMA_COLUMNS = ("image", "distribution", "mean", "std", "n_votes", "split", "key")
DEFAULT_SPLIT = "train"
MISSING_IMAGES = ("require", "drop", "ignore")
_SCHEMA_MARK = "cskd_hf.ratings"
ALL_SPLITS = "all"


def build_ratings(
    data: Mapping[str, Sequence] | Iterable[Mapping[str, Any]],
    score_values: Sequence[float],
    *,
    name: str,
    image_dir: str | os.PathLike | None = None,
    source: str | None = None,
    row_names: Sequence[str] | None = None,
    column_names: Mapping[str, str | Sequence[str]] | None = None,
    attributes: Mapping[str, Sequence[float]] | None = None,
    images: str = "require",
    about: str = "",
    license: str = "",
    problems: Problems | None = None,
) -> datasets.Dataset:
    """Validate labelled data and put it into the one schema.

    Everything is checked before anything is built, without decoding an image.

    Args:
        data (`Mapping[str, Sequence]` or rows): Columns, or row dicts. `image`: paths, URLs, bytes or
            `{"path", "bytes"}` dicts. `distribution`: (rows, bins) vote counts (whole numbers) or shares (summing to
            1), null where only the mean is known. `mean`, `std`, `n_votes`: computed from `distribution` where there
            is one; otherwise `mean` is required. `split` defaults to `"train"`; `key` to the image path as given.
            Other columns are kept.
        score_values (`Sequence[float]`): The rating each bin stands for, increasing; of a mean-only set its first and
            last value bound the scale.
        name (`str`): Name of the data set, kept in the info.
        image_dir (`str`, *optional*): Folder that relative image paths start from; default the working directory.
        source (`str`, *optional*): What error messages call the data; default `name`.
        row_names (`Sequence[str]`, *optional*): What error messages call each row; default `"row 1"`, ...
        column_names (`Mapping`, *optional*): What error messages call a schema column, where the user knows it by
            another name; for `distribution` also one name a bin.
        attributes (`Mapping`, *optional*): Columns that hold mean ratings of attributes, and their scales:
            `{"color": (1, 5)}`.
        images (`str`, *optional*): What becomes of rows whose image file is missing: `"require"` refuses them,
            `"drop"` leaves them out, says how many, and notes it in the info; `"ignore"` looks for no files.
        about (`str`, *optional*): What a user of the set must know of it, such as whose split it has; kept in the info.
        license (`str`, *optional*): Under which the images and ratings were published; kept in the info.
        problems (`Problems`, *optional*): What the reader of the data has noted already, by row.

    Returns:
        `datasets.Dataset`: The rated set.

    Raises:
        RatingsError: With up to five problems and their total number.
    """
    score_values = check_score_values(score_values)
    if images not in MISSING_IMAGES:
        raise RatingsError(
            f"`images` is {images!r}{suggest(images, MISSING_IMAGES)}; allowed: {list(MISSING_IMAGES)}."
        )
    columns = _as_columns(data)
    problems = Problems(source or name, row_names) if problems is None else problems
    known_as = {**{column: column for column in SCHEMA_COLUMNS}, **(column_names or {})}
    n_rows = _count_rows(columns, problems.source)
    names, cells, absent = check_images(columns["image"], image_dir, problems, known_as["image"], images)
    splits, keys = _splits_and_keys(columns, names, cells, problems, known_as)
    shares, labels = check_labels(columns, n_rows, score_values, problems, known_as)
    scales, rated = check_attributes(columns, attributes or {}, SCHEMA_COLUMNS, problems)
    problems.raise_if_any()

    table = {"image": cells, "distribution": shares, **labels, "split": splits, "key": keys}
    table |= {column: rated.get(column, values) for column, values in columns.items() if column not in table}
    table, note = _without(table, problems, absent)
    if problems.collected is not None:
        problems.collected.places |= {
            key: (problems.source, problems.place(row)) for row, key in enumerate(keys) if key
        }
    info = {"schema": _SCHEMA_MARK, "name": name, "score_values": list(score_values), "attributes": scales}
    info |= {"about": " ".join(filter(None, (about, note)))} | ({"license": license} if license else {})
    return _build(table, info)


def _count_rows(columns: Mapping[str, Sequence], source: str) -> int:
    """Raises:
    RatingsError: no images, no rows, or columns of different lengths.
    """
    lengths = {column: len(values) for column, values in columns.items()}
    if "image" not in columns:
        raise RatingsError(f"{source}: there is no 'image' column among {sorted(columns)}; add one.")
    if len(set(lengths.values())) > 1:
        raise RatingsError(f"{source}: the columns differ in length: {lengths}; make them equal.")
    if lengths["image"] == 0:
        raise RatingsError(f"{source}: there are no rows; give at least one rated image.")
    return lengths["image"]


def _splits_and_keys(
    columns: Mapping[str, Sequence],
    names: list,
    cells: list,
    problems: Problems,
    known_as: Mapping[str, Any],
) -> tuple[list, list]:
    """The split and the key of each row; without a column of keys, the image's path as given."""
    splits, keys = [DEFAULT_SPLIT] * len(names), names
    if "split" in columns:
        splits = check_texts(columns["split"], problems, known_as["split"])
    if "key" in columns:
        keys = check_texts(columns["key"], problems, known_as["key"])
    elif nameless := [row for row, cell in enumerate(cells) if not keys[row] and cell["bytes"] is not None]:
        problems.add(nameless[0], "key", None, "bytes have no path to name the image; add a column 'key'.")
    check_keys(keys, splits, problems, known_as["key" if "key" in columns else "image"])
    return splits, keys


def _without(table: dict[str, Sequence], problems: Problems, absent: Sequence[int]) -> tuple[dict[str, Sequence], str]:
    """Leave out the rows with collected faults and those without their file; also a sentence on the latter.

    Raises:
        RatingsError: no row is left.
    """
    if not problems.rows and not absent:
        return table, ""
    n_rows, dropped = len(table["image"]), set(absent) - problems.rows
    kept = [row for row in range(n_rows) if row not in problems.rows and row not in dropped]
    if not kept:
        path = table["image"][next(iter(absent), 0)]["path"]
        raise RatingsError(f"{problems.source}: none of its {n_rows} rows can be used; e.g. there is no file {path}.")
    note = f"{len(dropped)} of {n_rows} listed images are not on disk and were left out." if dropped else ""
    if note:
        logger.warning("%s: %s", problems.source, note)
    return {column: [values[row] for row in kept] for column, values in table.items()}, note


_FEATURES = {
    "image": datasets.Image(decode=False),
    "distribution": datasets.Sequence(datasets.Value("float32")),
    "mean": datasets.Value("float64"),
    "std": datasets.Value("float64"),
    "n_votes": datasets.Value("int64"),
    "split": datasets.Value("string"),
    "key": datasets.Value("string"),
}
_ROWS_WITH_BYTES = 1000  # in one Arrow array, which holds 2 GB at most


def _build(columns: Mapping[str, Sequence], info: Mapping[str, Any]) -> datasets.Dataset:
    """The dataset of checked columns; straight to Arrow, as `from_dict` asks the disk for each image."""
    known = _FEATURES | {column: datasets.Value("float64") for column in info["attributes"]}
    arrays: dict[str, pa.Array | pa.ChunkedArray] = {}
    for column, values in columns.items():
        if column == "image":
            arrays[column] = _image_array(values)
        elif column in known:
            arrays[column] = pa.array(values, datasets.Features({column: known[column]}).arrow_schema.field(0).type)
        else:
            arrays[column] = _extra_array(column, values)
    extra = datasets.Features.from_arrow_schema(pa.schema([(name, array.type) for name, array in arrays.items()]))
    features = datasets.Features(dict(extra) | known)
    return datasets.Dataset(
        InMemoryTable(pa.table(arrays)),
        info=datasets.DatasetInfo(description=json.dumps(info), features=features),
    )


def _image_array(cells: Sequence[Mapping[str, Any]]) -> pa.ChunkedArray:
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    step = _ROWS_WITH_BYTES if any(cell["bytes"] is not None for cell in cells) else len(cells)
    return pa.chunked_array([pa.array(cells[first : first + step], kind) for first in range(0, len(cells), step)])


def _extra_array(column: str, values: Sequence) -> pa.Array | pa.ChunkedArray:
    array = None
    try:
        array = pa.array(list(values))
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        pass
    if array is None or pa.types.is_nested(array.type):
        array = datasets.Dataset.from_dict({column: list(values)}).data.column(column)
    return array


def has_score_values(ds: datasets.Dataset) -> bool:
    """Whether `ds` carries the schema's mark in its info."""
    return f'"{_SCHEMA_MARK}"' in (ds.info.description or "")


def descriptions_of(ds: datasets.Dataset) -> list[dict[str, Any]]:
    """What the info of a rated set says: `name`, `score_values`, `attributes`, `about` and, where it is
    known, `license`; several after concatenation."""
    parts = (ds.info.description or "").split("\n")  # concatenation joins the descriptions with blank lines
    return [json.loads(part) for part in parts if f'"{_SCHEMA_MARK}"' in part]


def score_values_of(ds: datasets.Dataset) -> tuple[float, ...]:
    """The rating that each bin of a rated set stands for.

    Raises:
        RatingsError: `ds` carries none, or was concatenated from sets on different scales.
    """
    found = {tuple(part["score_values"]) for part in descriptions_of(ds)}
    if len(found) == 1:
        return found.pop()
    if found:
        raise RatingsError(f"The rated set mixes the scales {sorted(found)}; use one set, or rescale, for each scale.")
    raise RatingsError(
        "The dataset carries no score_values in its info; make rated sets with `load_ratings` or `build_ratings`."
    )


def attributes_of(ds: datasets.Dataset) -> dict[str, tuple[float, float]]:
    """The columns of a rated set that hold mean ratings of attributes, each with the ends of its scale.

    Raises:
        RatingsError: `ds` was concatenated from sets that have an attribute on different scales.
    """
    found: dict[str, tuple[float, float]] = {}
    for part in descriptions_of(ds):
        for name, (low, high) in part.get("attributes", {}).items():
            if found.setdefault(name, (low, high)) != (low, high):
                raise RatingsError(
                    f"The rated set mixes the scales {found[name]} and {(low, high)} of the attribute {name!r}; use one "
                    "set, or rescale, for each scale."
                )
    return {name: scale for name, scale in found.items() if name in ds.column_names}


def select_split(ds: datasets.Dataset, *names: str) -> datasets.Dataset:
    """The rows of one split or several, in their order; of `"all"`, every row.

    Raises:
        RatingsError: There is no split of one of the names.
    """
    if names == (ALL_SPLITS,):
        return ds
    splits = ds["split"][:]
    for name in names:
        if name not in splits:
            known = sorted(set(splits))
            raise RatingsError(f"There is no split {name!r}{suggest(name, known)}; allowed: {known}, or {ALL_SPLITS}.")
    return ds.select([row for row, split in enumerate(splits) if split in names])


def rated_subset(ds: datasets.Dataset, n: int, seed: int) -> datasets.Dataset:
    """Draw `n` rows, as when only `n` images had been rated.

    Rows are ranked by the SHA-256 digest of seed and key, so the draw and its order do not depend on the order of the
    file, and a smaller draw with the same seed is the beginning of a larger one.

    Args:
        ds (`datasets.Dataset`): Rated set.
        n (`int`): Number of rows, 1 to `len(ds)`.
        seed (`int`): Seed of the draw.

    Raises:
        RatingsError: `n` is out of range.
    """
    if not 1 <= n <= len(ds):
        raise RatingsError(f"n is {n}; allowed: 1 to {len(ds)}, the number of rows.")
    digests = [hashlib.sha256(f"{seed}\n{key}".encode()).digest() for key in ds["key"][:]]
    return ds.select(sorted(range(len(ds)), key=digests.__getitem__)[:n])


def _as_columns(data: Mapping[str, Sequence] | Iterable[Mapping[str, Any]]) -> dict[str, Sequence]:
    if isinstance(data, Mapping):
        return dict(data)
    rows = list(data)
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}
