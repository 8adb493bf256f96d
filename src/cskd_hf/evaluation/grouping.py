"""Figures by split, theme, category or any other column of few values, and of each attribute."""

from __future__ import annotations

from collections.abc import Sequence

import datasets
import numpy as np

from ..data.ratings import RatingsError
from ..data.ratings.checks import suggest
from ..data.ratings.schema import attributes_of
from .scored import ScoredImages

FEWEST_IMAGES = 10
"""A group of fewer images gets no figures: its correlations would be chance."""

DEFAULT_COLUMNS = ("split", "theme", "category")
_MOST_GROUPS = 60
_NONE = "(none)"


def group_columns(ratings: datasets.Dataset, by: Sequence[str] | None) -> tuple[list[str], dict[str, str]]:
    """The columns to group by, and why others of `DEFAULT_COLUMNS` do not serve.

    Args:
        ratings: in the ratings schema.
        by: columns that are asked for; none takes those of `DEFAULT_COLUMNS` that have from 2 to 60 values.

    Raises:
        RatingsError: there is no such column, or it holds no names of groups.
    """
    if by is None:
        present = [column for column in DEFAULT_COLUMNS if column in ratings.column_names]
        refused = {column: reason for column in present if (reason := _refusal(ratings, column))}
        fitting = [column for column in present if column not in refused]
        return [column for column in fitting if len(_names(ratings, column)[1]) > 1], refused
    for column in by:
        if reason := _refusal(ratings, column):
            raise RatingsError(f"by={column!r}: {reason}")
    return list(dict.fromkeys(by)), {}


def groups_of(ratings: datasets.Dataset, column: str) -> dict[str, np.ndarray]:
    """Row numbers of each group, the groups sorted by name; rows without a value are the group "(none)"."""
    names, distinct = _names(ratings, column)
    names = np.asarray(names, dtype=object)
    return {name: np.flatnonzero(names == name) for name in distinct}


def attribute_columns(scored: ScoredImages) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The attributes that the model predicts and the ratings hold, and why the others are left out.

    Returns:
        ratings `(images,)` by attribute, NaN where an image has none; and the reason for each other attribute.
    """
    rated = attributes_of(scored.ratings)
    reasons = {name: "the ratings have no such attribute" for name in scored.attributes if name not in rated}
    reasons |= {name: "the model does not predict it" for name in rated if name not in scored.attributes}
    columns = {
        name: np.array([np.nan if value is None else value for value in scored.ratings[name][:]], dtype=np.float64)
        for name in scored.attributes
        if name in rated
    }
    return columns, reasons


def _names(ratings: datasets.Dataset, column: str) -> tuple[list[str], list[str]]:
    """The group of each row, and the groups, sorted as text or, where all are numbers, as numbers."""
    values = ratings[column][:]
    distinct = sorted({value for value in values if value is not None}, key=lambda value: (str(type(value)), value))
    names = [_NONE if value is None else str(value) for value in values]
    return names, [str(value) for value in distinct] + [_NONE] * (_NONE in names)


def _refusal(ratings: datasets.Dataset, column: str) -> str | None:
    if column not in ratings.column_names:
        return f"there is no such column{suggest(column, ratings.column_names)}; allowed: {_allowed(ratings)}."
    feature = ratings.features[column]
    kind = feature.dtype if isinstance(feature, (datasets.Value, datasets.ClassLabel)) else type(feature).__name__
    if kind not in ("string", "large_string", "bool") and not kind.startswith(("int", "uint")):
        return f"it is a column of {kind}; allowed: text, whole numbers or booleans."
    if (distinct := len(set(ratings[column][:]))) > _MOST_GROUPS:
        return f"it has {distinct} different values; allowed: at most {_MOST_GROUPS}, each the name of a group."
    return None


def _allowed(ratings: datasets.Dataset) -> str:
    named = ("string", "large_string", "bool", "int64", "int32")
    columns = [name for name, kind in ratings.features.items() if getattr(kind, "dtype", "") in named]
    return ", ".join(name for name in columns if name not in ("key", "n_votes"))
