"""Which few images of a rated set are taken as rated: draws by seed, and lists of keys that fix them.

A list is a text file with one key a line, in the order of the draw, after lines of comment that begin with "# ". A
smaller draw with the same seed is the beginning of a larger one, so one list serves every number up to its own.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import datasets

from ...files import replaced_file
from .checks import RatingsError, suggest
from .schema import rated_subset

_COMMENT = "# "
_RULE = "ascending SHA-256 of the seed, a line feed and the key, all as UTF-8 text"


def number_of(share: float, total: int) -> int:
    """A share of `total`, to the nearest whole number, half upwards; at least 1."""
    return max(1, int(share * total + 0.5))


def read_label_list(path: str | os.PathLike) -> list[str]:
    """The keys of a list.

    Raises:
        RatingsError: it cannot be read, is empty, or names a key twice.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RatingsError(f"'{path}': this list of keys cannot be read ({error}).") from error
    keys: list[str] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        key = line.strip()
        if not key or (not keys and line.startswith(_COMMENT)):
            continue
        if key in seen:
            raise RatingsError(f"'{path}': line {number} has the key {key!r} of line {seen[key]} again; keep one.")
        seen[key] = number
        keys.append(key)
    if not keys:
        raise RatingsError(f"'{path}': there is no key in it; write one a line.")
    return keys


def write_label_list(
    path: str | os.PathLike, keys: Sequence[str], *, name: str, split: str, total: int, seed: int
) -> None:
    """Write a list and, above it, where it is from.

    Args:
        path: of the file.
        keys: in the order of the draw.
        name: of the rated set, not where it lies.
        split: that was drawn from.
        total: images in that split.
        seed: of the draw.

    Raises:
        RatingsError: the first key looks like a comment.
    """
    if keys[0].startswith(_COMMENT):
        raise RatingsError(f"the key {keys[0]!r} would be read as a comment; give the images other keys.")
    head = [f"{len(keys)} of the {total} images in the split '{split}' of {name}, seed {seed}", f"order: {_RULE}"]
    with replaced_file(path) as partial:
        partial.write_text("\n".join([*(_COMMENT + line for line in head), *keys]) + "\n", encoding="utf-8")


def list_digest(keys: Sequence[str]) -> str:
    """SHA-256 of the keys, each followed by a line feed: one line for a list too long to be published."""
    return hashlib.sha256("".join(f"{key}\n" for key in keys).encode()).hexdigest()


def select_keys(
    ds: datasets.Dataset, keys: Sequence[str], source: str, splits_of: datasets.Dataset
) -> datasets.Dataset:
    """The rows of a list, in its order.

    Args:
        ds: the split to choose from.
        keys: of the list.
        source: what errors call the list.
        splits_of: all splits, to say where an unknown key is.

    Raises:
        RatingsError: a key that `ds` does not have.
    """
    rows = {key: row for row, key in enumerate(ds["key"][:])}
    if unknown := [key for key in keys if key not in rows]:
        elsewhere = dict(zip(splits_of["key"][:], splits_of["split"][:]))
        shown = [
            f"{key!r}"
            + (f" (in the split {elsewhere[key]!r})" if key in elsewhere else suggest(key, list(rows)[:20000]))
            for key in unknown[:3]
        ]
        raise RatingsError(
            f"'{source}': {len(unknown)} of its {len(keys)} keys are not in the split that is trained on: "
            f"{', '.join(shown)}{', ...' if len(unknown) > 3 else ''}; give a list of this set and split, or read the set "
            "without a validation split of its own (NAME:DIR?validation_share=0)."
        )
    return ds.select([rows[key] for key in keys])


def few_rated(
    ds: datasets.Dataset,
    splits_of: datasets.Dataset,
    *,
    labels: int = 0,
    label_share: float = 0.0,
    label_ids: str = "",
    seed: int = 0,
) -> datasets.Dataset:
    """The rated images of a low-label setting.

    Args:
        ds: the split that is trained on.
        splits_of: all splits of the set.
        labels: how many images; 0 for all.
        label_share: share of the split instead; 0 for all.
        label_ids: file with the keys to take, of which `labels` or `label_share` take the first.
        seed: of the draw, where there is no list.

    Raises:
        RatingsError: more are wanted than there are.
    """
    wanted = number_of(label_share, len(ds)) if label_share else labels
    if not label_ids:
        return rated_subset(ds, wanted, seed) if wanted else ds
    keys = read_label_list(label_ids)
    if wanted > len(keys):
        raise RatingsError(
            f"'{label_ids}': it has {len(keys)} keys, and {wanted} are wanted; give at most as many, or a longer list."
        )
    return select_keys(ds, keys[: wanted or None], label_ids, splits_of)
