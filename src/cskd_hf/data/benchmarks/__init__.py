"""The rated data sets of the field, each read from its published files into the one ratings schema.

ratings = find_reader("ava")("datasets/AVA")

A reader is `reader(folder, *, images="require", image_dir=None, **options) -> datasets.Dataset`; see `reading.py` for
what they share. A set in several layouts has a reader for each, because their splits differ.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import datasets

from ..ratings.checks import RatingsError, suggest

Reader = Callable[..., datasets.Dataset]

READERS: dict[str, str] = {
    "ava": "ava:read_ava",
    "ava-tanet": "ava:read_ava_tanet",
    "ava-idealo": "ava:read_ava_idealo",
    "ava-pyiqa": "ava:read_ava_pyiqa",
    "aadb": "aadb:read_aadb",
    "para": "para:read_para",
    "eva": "eva:read_eva",
    "flickr-aes": "flickr_aes:read_flickr_aes",
    "flickr-aes-votes": "flickr_aes:read_flickr_aes_votes",
    "tad66k": "tad66k:read_tad66k",
    "koniq10k": "koniq10k:read_koniq10k",
    "koniq10k-mos": "koniq10k:read_koniq10k_mos",
    "spaq": "spaq:read_spaq",
    "baid": "baid:read_baid",
}
"""Module and function of each reader, imported when it is asked for."""

VOTE_READERS: dict[str, str] = {
    "flickr-aes": "flickr_aes:read_votes",
    "flickr-aes-votes": "flickr_aes:read_votes",
    "para": "para:read_votes",
    "eva": "eva:read_votes",
}
"""Those that also read who rated what: `reader(folder) -> Votes`."""


def find_reader(name: str) -> Reader:
    """The reader of a data set.

    Raises:
        RatingsError: there is none of that name.
    """
    if name not in READERS:
        raise RatingsError(f"there is no data set {name!r}{suggest(name, READERS)}; allowed: {', '.join(READERS)}.")
    return _import(READERS[name])


def find_vote_reader(name: str) -> Callable[..., Any]:
    """The reader of the votes of a data set of `VOTE_READERS`."""
    return _import(VOTE_READERS[name])


def _import(path: str) -> Callable[..., Any]:
    module, _, function = path.partition(":")
    return getattr(importlib.import_module(f".{module}", __name__), function)


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Refuse options that the reader of a data set does not have.

    Raises:
        RatingsError: naming those that it has.
    """
    allowed = [
        key for key, kind in inspect.signature(find_reader(name)).parameters.items() if kind.kind is kind.KEYWORD_ONLY
    ]
    for option in options:
        if option not in allowed:
            raise RatingsError(
                f"the data set {name!r} has no option {option!r}{suggest(option, allowed)}; allowed: {', '.join(allowed)}."
            )
