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

and any extra columns behind them. The rating that each bin stands for, `score_values`, travels in the description of
the dataset's info, so it survives `select`, `filter` and `save_to_disk`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import datasets

from .ratings_checks import (
    Problems,
    RatingsError,
    check_images,
    check_keys,
    check_labels,
    check_score_values,
    check_texts,
    suggest,
)

SCHEMA_COLUMNS = ("image", "distribution", "mean", "std", "n_votes", "split", "key")
DEFAULT_SPLIT = "train"
_SCHEMA_MARK = "cskd_hf.ratings"


def build_ratings(
    data: Mapping[str, Sequence] | Iterable[Mapping[str, Any]],
    score_values: Sequence[float],
    *,
    name: str,
    image_dir: str | os.PathLike | None = None,
    source: str | None = None,
    row_names: Sequence[str] | None = None,
    column_names: Mapping[str, str | Sequence[str]] | None = None,
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

    Returns:
        `datasets.Dataset`: The rated set.

    Raises:
        RatingsError: With up to five problems and their total number.
    """
    score_values = check_score_values(score_values)
    columns = _as_columns(data)
    problems = Problems(source or name, row_names)
    known_as = {**{column: column for column in SCHEMA_COLUMNS}, **(column_names or {})}
    lengths = {column: len(values) for column, values in columns.items()}
    if "image" not in columns:
        raise RatingsError(f"{problems.source}: there is no 'image' column among {sorted(columns)}; add one.")
    if len(set(lengths.values())) > 1:
        raise RatingsError(f"{problems.source}: the columns differ in length: {lengths}; make them equal.")
    n_rows = lengths["image"]
    if n_rows == 0:
        raise RatingsError(f"{problems.source}: there are no rows; give at least one rated image.")

    names, images = check_images(columns["image"], image_dir, problems, known_as["image"])
    splits, keys = [DEFAULT_SPLIT] * n_rows, names
    if "split" in columns:
        splits = check_texts(columns["split"], problems, known_as["split"])
    if "key" in columns:
        keys = check_texts(columns["key"], problems, known_as["key"])
    elif nameless := [row for row, image in enumerate(images) if not keys[row] and image["bytes"] is not None]:
        problems.add(nameless[0], "key", None, "bytes have no path to name the image; add a column 'key'.")
    check_keys(keys, splits, problems, known_as["key" if "key" in columns else "image"])
    shares, labels = check_labels(columns, n_rows, score_values, problems, known_as)
    problems.raise_if_any()

    table = {"image": images, "distribution": shares, **labels, "split": splits, "key": keys}
    features = {
        "image": datasets.Image(decode=False),
        "distribution": datasets.Sequence(datasets.Value("float32")),
        "mean": datasets.Value("float64"),
        "std": datasets.Value("float64"),
        "n_votes": datasets.Value("int64"),
        "split": datasets.Value("string"),
        "key": datasets.Value("string"),
    }
    extra = {column: list(values) for column, values in columns.items() if column not in features}
    if extra:
        features |= datasets.Dataset.from_dict(extra).features
    description = json.dumps({"schema": _SCHEMA_MARK, "name": name, "score_values": list(score_values)})
    return datasets.Dataset.from_dict(
        table | extra,
        features=datasets.Features(features),
        info=datasets.DatasetInfo(description=description, features=datasets.Features(features)),
    )


def has_score_values(ds: datasets.Dataset) -> bool:
    """Whether `ds` carries the schema's mark in its info."""
    return f'"{_SCHEMA_MARK}"' in (ds.info.description or "")


def score_values_of(ds: datasets.Dataset) -> tuple[float, ...]:
    """The rating that each bin of a rated set stands for.

    Raises:
        RatingsError: `ds` carries none, or was concatenated from sets on different scales.
    """
    found = set()
    for part in (ds.info.description or "").split("\n"):  # concatenation joins the descriptions with blank lines
        if f'"{_SCHEMA_MARK}"' in part:
            found.add(tuple(json.loads(part)["score_values"]))
    if len(found) == 1:
        return found.pop()
    if found:
        raise RatingsError(f"The rated set mixes the scales {sorted(found)}; use one set, or rescale, for each scale.")
    raise RatingsError(
        "The dataset carries no score_values in its info; make rated sets with `load_ratings` or `build_ratings`."
    )


def select_split(ds: datasets.Dataset, name: str) -> datasets.Dataset:
    """The rows of one split, in their order.

    Raises:
        RatingsError: There is no split of that name.
    """
    splits = ds["split"][:]
    rows = [row for row, split in enumerate(splits) if split == name]
    if not rows:
        raise RatingsError(f"There is no split {name!r}{suggest(name, set(splits))}; allowed: {sorted(set(splits))}.")
    return ds.select(rows)


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
