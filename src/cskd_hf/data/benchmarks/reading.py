"""What the readers share: finding the published files, pinned splits, and the way into the ratings schema.

Where a data set has no official validation split, `validation_share` of its training images, chosen by a hash of the
key, is named "validation"; 0 leaves the official training split whole. Test splits are never touched.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets

from ..ratings.checks import Problems, RatingsError, parse_bins
from ..ratings.schema import build_ratings
from ..ratings.tables import read_table

VALIDATION_SHARE = 0.05

_LICENSES = {
    "AADB": "research use only",
    "PARA": "non-commercial use only",
    "EVA": "CC0 (the ratings; the images are AVA's)",
    "BAID": "CC BY-NC-ND",
}
"""As the publishers of the sets state them; what others may be used for is not known here."""


def find_path(folder: str | os.PathLike, *names: str, what: str, optional: bool = False) -> Path | None:
    """The first of several files or folders that exists.

    Args:
        folder: of the data set.
        names: relative to it, as in the published versions of the set.
        what: it is, for the message.
        optional: return none instead of refusing.

    Raises:
        RatingsError: none exists; names all that were looked for.
    """
    root = Path(folder)
    if found := next((root / name for name in names if (root / name).exists()), None):
        return found
    if optional:
        return None
    if not root.is_dir():
        raise RatingsError(f"'{root}' is not a folder; give the folder of the data set.")
    raise RatingsError(f"'{root}': {what} is missing; looked for {' | '.join(names)}.")


def find_split_files(folder: str | os.PathLike, names: Mapping[str, Sequence[str]], what: str) -> dict[str, Path]:
    """The files of the splits: those of them that exist, at least one.

    Args:
        folder: of the data set, or one of the files alone, whose name then says its split.
        names: of each split, the names that its file may have.
        what: they are, for the message.

    Raises:
        RatingsError: there is none.
    """
    root = Path(folder)
    if root.is_file():
        stem = root.stem.lower()
        split = next((split for split in names if split[:3] in stem), None)
        if split is None:
            raise RatingsError(
                f"'{root}': its name says no split; allowed: names with train, val or test, or the folder."
            )
        return {split: root}
    found = {split: find_path(root, *options, what=what, optional=True) for split, options in names.items()}
    files = {split: path for split, path in found.items() if path is not None}
    if not files:
        find_path(root, *(name for options in names.values() for name in options), what=what)
    return files


def read_split_files(files: Mapping[str, Path]) -> tuple[dict[str, list], list[str]]:
    """Read tables with the same columns, one a split, as one table with a column "split".

    Returns:
        columns of raw cells, and the file and place of each row, e.g. "test.csv line 7".

    Raises:
        RatingsError: they have different columns.
    """
    table: dict[str, list] = {}
    row_names: list[str] = []
    for split, path in files.items():
        part, places = read_table(path)
        part = {**part, "split": [split] * len(places)}
        if table and set(part) != set(table):
            raise RatingsError(f"'{path}': it has the columns {list(part)}, the file before it has {list(table)}.")
        for name, cells in part.items():
            table.setdefault(name, []).extend(cells)
        row_names += [f"{path.name} {place}" for place in places]
    return table, row_names


def parse_votes(table: Mapping[str, list], columns: Sequence[str], problems: Problems) -> Any:
    """The votes of a table with one column a bin: (rows, bins); null for a row that has none or is faulty, which is noted.

    Raises:
        RatingsError: a column is missing.
    """
    require_columns(table, columns, problems.source)
    return parse_bins(table, columns, problems)


def require_columns(table: Mapping[str, list], columns: Sequence[str], source: str | os.PathLike) -> None:
    """Refuse a table that lacks columns.

    Raises:
        RatingsError: naming those that are missing and those that are there.
    """
    if missing := [name for name in columns if name not in table]:
        raise RatingsError(f"'{source}': the columns {missing} are missing; it has {list(table)[:20]}.")


def hash_fraction(key: str, salt: str) -> float:
    """A number in [0, 1) that depends on key and salt alone: SHA-256, its first 8 bytes."""
    digest = hashlib.sha256(f"{salt}\n{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def carve_validation(splits: Sequence[str], keys: Sequence[str], share: float, name: str) -> list[str]:
    """Name a share of the training images "validation", chosen by a hash of name and key.

    Args:
        splits: official, one a row.
        keys: one a row.
        share: of the training images, 0 to below 1; a larger share holds all images of a smaller one.
        name: of the data set, which salts the hash.
    """
    if not isinstance(share, (int, float)) or not 0 <= share < 1:
        raise RatingsError(f"`validation_share` is {share!r}; allowed: 0 to below 1, a share of the training images.")
    return [
        "validation" if split == "train" and hash_fraction(key, f"{name} validation") < share else split
        for split, key in zip(splits, keys)
    ]


def split_by_hash(keys: Sequence[str], shares: Mapping[str, float], name: str) -> list[str]:
    """Splits for a data set that has no official ones, chosen by a hash of name and key.

    Args:
        keys: one a row.
        shares: of each split, summing to 1, e.g. `{"train": 0.8, "validation": 0.1, "test": 0.1}`.
        name: of the data set, which salts the hash.
    """
    bounds, total = [], 0.0
    for split, share in shares.items():
        total += share
        bounds.append((total, split))
    last = bounds[-1][1]
    return [
        next((split for bound, split in bounds if fraction < bound), last)
        for fraction in (hash_fraction(key, f"{name} splits") for key in keys)
    ]


def build_benchmark(
    columns: Mapping[str, Sequence],
    score_values: Sequence[float],
    *,
    name: str,
    source: str | os.PathLike,
    image_dir: str | os.PathLike,
    images: str = "require",
    row_names: Sequence[str] | None = None,
    attributes: Mapping[str, Sequence[float]] | None = None,
    column_names: Mapping[str, str | Sequence[str]] | None = None,
    about: str = "",
    problems: Problems | None = None,
) -> datasets.Dataset:
    """`build_ratings`, with advice for missing images that fits a published data set."""
    given: dict[str, Any] = {"row_names": row_names, "attributes": attributes, "column_names": column_names}
    try:
        return build_ratings(
            columns,
            score_values,
            name=name,
            source=str(source),
            image_dir=image_dir,
            images=images,
            about=about,
            license=_LICENSES.get(name, ""),
            problems=problems,
            **given,
        )
    except RatingsError as error:
        if images != "require" or "there is no file" not in str(error):
            raise
        raise RatingsError(
            f"{error}\nTo go on without the images that are not on disk: images='drop', or '?images=drop' behind the "
            "folder."
        ) from None
