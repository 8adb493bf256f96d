"""Ratings of single raters, on the scale of the general scorer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..data.ratings import RatingsError, load_ratings
from ..data.ratings.votes import Votes, load_votes
from ..training.settings import SettingsError
from .base import Base
from .taste import RatedFeatures

MIN_RATINGS = 5


def on_scale(votes: Votes, general: Base, scale: Sequence[float]) -> dict[str, dict[str, float]]:
    """Ratings by rater, on the base's scale."""
    low, high = _ends(scale, general)
    bad = np.flatnonzero((votes.ratings < low) | (votes.ratings > high))
    if len(bad):
        place = votes.row_names[bad[0]] if votes.row_names else f"row {bad[0] + 1}"
        raise RatingsError(_off_scale(f"{votes.source}: {place}", votes.ratings[bad[0]], low, high))
    by_rater = votes.by_rater()
    return {rater: {key: _mapped(value, low, high, general) for key, value in found.items()} for rater, found in by_rater.items()}  # fmt: skip


def ratings_of(
    file: str, general: Base, rater: str | None, scale: Sequence[float], images: str | None
) -> tuple[dict[str, float], dict[str, Any]]:
    """Ratings by key on the base's scale, and the image of each key."""
    if rater is not None:
        votes = load_votes(file)
        by_rater = on_scale(votes, general, scale)
        if rater not in by_rater:
            shown = ", ".join(list(by_rater)[:10])
            raise RatingsError(f"{file}: there is no rater {rater!r}; the first of {len(by_rater)}: {shown}.")
        cells = dict(zip(votes.keys, votes.images))
        return by_rater[rater], {key: cells[key] for key in by_rater[rater]}
    low, high = _ends(scale, general)
    ratings = load_ratings(file, image_dir=images, score_values=[low, high])
    cells = dict(zip(ratings["key"][:], ratings.with_format("arrow")[:]["image"].to_pylist()))
    found = {key: _mapped(mean, low, high, general) for key, mean in zip(ratings["key"][:], ratings["mean"][:])}
    return found, cells


def check_few(rated: RatedFeatures, file: str) -> None:
    """Refuse ratings that are too few, or all equal."""
    if len(rated.ratings) < MIN_RATINGS:
        raise RatingsError(
            f"{file}: {len(rated.ratings)} readable ratings; at least {MIN_RATINGS} are needed, about 20 are advised."
        )
    if rated.ratings.std() == 0:
        raise RatingsError(
            f"{file}: all {len(rated.ratings)} ratings are equal, so they tell no taste; rate more images."
        )


def _ends(scale: Sequence[float], general: Base) -> tuple[float, float]:
    if scale and (len(scale) != 2 or not scale[0] < scale[1]):
        raise SettingsError(f"scale={list(scale)} must be two rising numbers, e.g. 1 5.")
    return (float(scale[0]), float(scale[1])) if scale else general.scale


def _mapped(value: float, low: float, high: float, general: Base) -> float:
    to_low, to_high = general.scale
    return to_low + (value - low) * (to_high - to_low) / (high - low)


def _off_scale(place: str, value: float, low: float, high: float) -> str:
    return (
        f"{place}: the rating {value:g} is outside {low:g} to {high:g}; correct it, or give the scale of the ratings with "
        "--scale LOW HIGH (it is mapped to the base's)."
    )
