"""From what a user writes to the rated images that are meant: a file, a data set of the field, a dataset on the Hub."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import datasets

from ...files import public_name
from ..benchmarks import READERS, VOTE_READERS, check_options, find_reader, find_vote_reader
from .checks import RatingsError, check_score_values, suggest
from .loading import load_ratings
from .schema import score_values_of, select_split
from .votes import Votes, load_votes

HUB = "hub"
_NAME = re.compile(r"[A-Za-z][\w-]+")  # one letter is a drive of Windows


def open_ratings(
    location: str | os.PathLike,
    *,
    image_dir: str | os.PathLike | None = None,
    score_values: Sequence[float] | None = None,
    columns: Mapping[str, Any] | None = None,
    split: str | None = None,
    attributes: Mapping[str, Sequence[float]] | None = None,
    images: str | None = None,
) -> datasets.Dataset:
    """Rated images, wherever they are.

    Args:
        location (`str` or `Path`): One of

            - a file or folder that `load_ratings` reads; `?images=drop` may follow it;
            - `NAME:DIR`, a data set of the field in the layout in which it is published, e.g. `ava:datasets/AVA`;
              options of its reader follow a question mark: `ava:datasets/AVA?images=drop&validation_share=0`;
            - `hub:organisation/name`, `hub:organisation/name:config` or `hub:organisation/name@revision`, a dataset on
              the Hub with named columns, or `hub:` and a folder that `datasets.load_dataset` reads.
        image_dir (`str` or `Path`, *optional*): Folder that relative image paths start from.
        score_values (`Sequence[float]`, *optional*): The rating each bin stands for, as in `load_ratings`.
        columns (`Mapping`, *optional*): Names in the data of the columns of the schema, as in `load_ratings`.
        split (`str`, *optional*): Return only this split.
        attributes (`Mapping`, *optional*): Columns that hold mean ratings of attributes, and the ends of their scales.
        images (`str`, *optional*): What becomes of rows whose image file is missing: `"require"` (default), `"drop"` or
            `"ignore"`, see `build_ratings`.

    Returns:
        `datasets.Dataset`: The rated set; see `schema` for its columns.

    Raises:
        RatingsError: The data cannot be used; names the file, row, column, value, and what is allowed.
    """
    text = os.fspath(location)
    name, rest = split_location(text)
    given = {"image_dir": image_dir, "score_values": score_values, "columns": columns, "attributes": attributes}
    if name == HUB:
        from .hub import load_hub_ratings

        return load_hub_ratings(rest, split=split, images=images or "require", **given)
    place, options = _split_options(rest)
    if images is not None:
        options["images"] = images
    if not name:
        if unknown := [option for option in options if option != "images"]:
            raise RatingsError(f"'{text}': a file has no option {unknown[0]!r}; allowed: images.")
        return load_ratings(place, split=split, **given, **options)
    if columns or attributes:
        raise RatingsError(f"'{text}': the columns of {name!r} are known; leave out `columns` and `attributes`.")
    check_options(name, options)
    if image_dir:
        options["image_dir"] = image_dir
    ds = find_reader(name)(place, **options)
    if score_values and check_score_values(score_values) != score_values_of(ds):
        own = list(score_values_of(ds))
        raise RatingsError(
            f"'{text}': `score_values` is {list(score_values)}, those of {name!r} are {own}; leave it out."
        )
    return ds if split is None else select_split(ds, split)


def open_votes(
    location: str | os.PathLike,
    *,
    columns: Mapping[str, Any] | None = None,
    split: str | None = None,
    repeats: str = "refuse",
) -> Votes:
    """Ratings with one row a vote, wherever they are: who rated which image how.

    Args:
        location (`str` or `Path`): A file that `load_votes` reads, or `NAME:DIR` of a data set that publishes its votes:
            those of `VOTE_READERS`. Their keys are those of the rated set that `open_ratings` makes of it.
        columns, split, repeats: of a file, as in `load_votes`.

    Raises:
        RatingsError: The data cannot be used, or the data set publishes no votes.
    """
    text = os.fspath(location)
    name, rest = split_location(text)
    if not name:
        return load_votes(text, columns=columns, split=split, repeats=repeats)
    if name not in VOTE_READERS:
        raise RatingsError(
            f"'{text}': the votes of {name!r} cannot be read one by one; allowed: a file, {', '.join(VOTE_READERS)}."
        )
    if columns or split:
        raise RatingsError(
            f"'{text}': the columns of {name!r} are known, and its votes have no split; leave them out."
        )
    return find_vote_reader(name)(_split_options(rest)[0])


def split_location(location: str | os.PathLike) -> tuple[str, str]:
    """Name of the data set, or "hub", and what follows the colon; no name for a file or folder.

    Raises:
        RatingsError: there is no data set of that name.
    """
    text = os.fspath(location)
    name, colon, rest = text.partition(":")
    if not colon or Path(text).exists() or not _NAME.fullmatch(name) or rest.startswith("//"):
        return "", text
    name = name.lower()
    if name in READERS and not rest:
        raise RatingsError(f"'{text}': the folder of the data set is missing; write {name}:DIR.")
    if name not in READERS and name != HUB:
        raise RatingsError(
            f"'{text}': there is no such file, and no data set {name!r}{suggest(name, [*READERS, HUB])}; allowed before "
            f"the colon: {', '.join(READERS)} with the folder of the data set, or {HUB} with a name on the Hub."
        )
    return name, rest


def public_place(location: str | os.PathLike) -> str:
    """The location without the folders that lead to it, which are its maker's own: `ava:AVA`, `ratings.csv`."""
    name, rest = split_location(location)
    return f"{name}:{public_name(rest)}" if name else public_name(rest)


def _split_options(text: str) -> tuple[str, dict[str, Any]]:
    folder, _, query = text.rpartition("?") if "?" in text and not Path(text).exists() else (text, "", "")
    try:
        options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError as error:
        raise RatingsError(f"'{text}': {query!r} is not OPTION=VALUE, several joined by '&' ({error}).") from error
    return folder, {option: _number(value) for option, value in options.items()}


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
