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

from ..ratings_checks import Problems, RatingsError
from ..ratings_schema import build_ratings

VALIDATION_SHARE = 0.05


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
