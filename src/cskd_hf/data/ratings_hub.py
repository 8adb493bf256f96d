"""Rated datasets on the Hub."""

from __future__ import annotations

from typing import Any

import datasets

from .ratings_checks import RatingsError


def load_hub_ratings(name: str, *, split: str | None = None, **given: Any) -> datasets.Dataset:
    """Read a rated dataset of the Hub into the one schema.

    Args:
        name: `organisation/name`.
        split: return only this split.
        given: `image_dir`, `score_values`, `columns` and `attributes`, as in `load_ratings`.
    """
    raise RatingsError(f"'hub:{name}': datasets on the Hub cannot be read yet; save it to a file or folder.")
