"""Lists of test images and raters, for data sets whose published labels name no split."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..ratings.checks import RatingsError, suggest
from .reading import carve_validation, split_by_hash

logger = logging.getLogger(__name__)

TEST_LISTS = ("test.json", "test_list.json", "test.txt", "test_images.txt")
"""Where a list of test images is looked for in the folder of a data set."""


def read_names(path: str | os.PathLike) -> list[str]:
    """Names in a list: JSON, of names or of `{"image": ...}` (the form of the Q-Align and ArtiMuse lists), or one a line.

    Folders in front of a name are left out: the lists start from different ones.

    Raises:
        RatingsError: it is neither.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        entries: Any = json.loads(text) if path.suffix.lower() == ".json" else text.split("\n")
        names = [entry["image"] if isinstance(entry, Mapping) else entry for entry in entries]
        names = [name.strip().replace("\\", "/").rpartition("/")[2] for name in names]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RatingsError(
            f"{path}: it is no list of images ({type(error).__name__}: {error}); allowed: one name a line, or JSON "
            'with a list of names or of {"image": name}.'
        ) from error
    return [name for name in names if name]


def find_names(folder: str | os.PathLike, given: str, known: Sequence[str]) -> tuple[list[str] | None, str]:
    """The names of a list and the list's file name; none where there is no list.

    Args:
        folder: of the data set.
        given: the list that the user names, in `folder` or by its own path; may be empty.
        known: names that a list in `folder` may have.
    """
    root = Path(folder)
    if given:
        path = root / given
        if not path.is_file():
            raise RatingsError(f"'{path}': there is no such list; give a file with the names of the test images.")
    else:
        path = next((root / name for name in known if (root / name).is_file()), None)
    return (None, "") if path is None else (read_names(path), path.name)


def split_by_list(keys: Sequence[str], test: Sequence[str], list_name: str, folder: str | os.PathLike) -> list[str]:
    """ "test" for the images of a list, "train" for the others.

    Raises:
        RatingsError: an image of the list that the data set does not have.
    """
    present = set(keys)
    if unknown := [name for name in test if name not in present]:
        raise RatingsError(
            f"'{Path(folder) / list_name}': {len(unknown)} of its {len(test)} names are not in the data set, e.g. "
            f"{unknown[0]!r}{suggest(unknown[0], list(present)[:20000])}; give the list of this data set."
        )
    chosen = set(test)
    return ["test" if key in chosen else "train" for key in keys]


def listed_or_own_split(
    keys: Sequence[str],
    folder: str | os.PathLike,
    given: str,
    name: str,
    test_share: float,
    validation_share: float,
) -> tuple[list[str], str]:
    """Splits of a data set without official ones: after a list of test images where there is one, else by hash.

    Args:
        keys: one a row.
        folder: of the data set.
        given: list of test images that the user names; else `TEST_LISTS` in `folder`.
        name: of the data set, which salts the hashes.
        test_share: of the images, where there is no list.
        validation_share: of the training images.

    Returns:
        the splits, and a sentence on whose they are.
    """
    test, list_name = find_names(folder, given, TEST_LISTS)
    if test is not None:
        splits = split_by_list(keys, test, list_name, folder)
        about = f"Test split: the {len(test)} images of {list_name}."
    else:
        splits = split_by_hash(keys, {"train": 1 - test_share, "test": test_share}, name)
        about = (
            f"The published files name no split: the test split is this package's own ({test_share:.0%} by a hash of the "
            "file name), and figures on it compare with no paper's."
        )
        logger.warning("%s: %s", folder, about)
    return carve_validation(splits, keys, validation_share, name), about
