"""The scale of ratings that do not tell it: mean ratings without votes."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import datasets

from ..data.ratings import score_values_of
from ..data.ratings.faults import RatingsError, UnknownScaleError
from ..data.ratings.locations import open_ratings
from .settings import FinetuneSettings

logger = logging.getLogger(__name__)

COMMON_SCALES = ((1, 5), (1, 7), (1, 10), (0, 10), (0, 5), (0, 1), (0, 100), (1, 100), (-1, 1))
_MOST_STEPS = 20


def bins_of_scale(low: float, high: float) -> list[float]:
    """The bins of a scale that is known by its ends: its whole steps where it has 1 to 20, else ten equal steps.

    Two bins alone could not say "all votes in the middle"; the predicted spread would be meaningless.
    """
    steps = high - low
    if low % 1 == 0 and high % 1 == 0 and 2 <= steps <= _MOST_STEPS:
        return [low + step for step in range(int(steps) + 1)]
    return [low + steps * step / 10 for step in range(10)] + [high]


def read_ratings(settings: FinetuneSettings) -> tuple[datasets.Dataset, str]:
    """The rated images, and how their scale is known, for the report.

    Without votes and without a scale in the settings, the scale is taken from the ratings only where they reach both
    ends of exactly one common scale, and that is said. Otherwise the error proposes the smallest that holds them.

    Raises:
        RatingsError: the ratings cannot be used, or their scale is not known.
    """
    place = {"image_dir": settings.images or None}
    given = settings.score_values or (bins_of_scale(*settings.scale) if settings.scale else None)
    try:
        ratings = open_ratings(settings.ratings, score_values=given, **place)
        return ratings, "given" if given else f"as the file names it, {_ends(score_values_of(ratings))}"
    except UnknownScaleError as unknown:
        if unknown.ends is None:
            raise
        low, high = assumed_scale(*unknown.ends, settings.ratings)
    note = f"assumed to be {low:g} to {high:g}, since the lowest and the highest rating are these"
    logger.warning("the scale of '%s' is %s; give --scale LOW HIGH if it is another", settings.ratings, note)
    return open_ratings(settings.ratings, score_values=bins_of_scale(low, high), **place), note


def assumed_scale(low: float, high: float, source: str) -> tuple[float, float]:
    """The one common scale whose two ends both occur among the ratings.

    Raises:
        RatingsError: there is none; the message proposes the smallest common scale that holds the ratings.
    """
    if (low, high) in COMMON_SCALES:
        return low, high
    holding = [scale for scale in COMMON_SCALES if scale[0] <= low and high <= scale[1]]
    proposal = min(holding, key=lambda scale: scale[1] - scale[0], default=(math.floor(low), math.ceil(high)))
    raise RatingsError(
        f"{source}: the ratings lie between {low:g} and {high:g}, but the lowest and highest that a rater could give are "
        f"not known; if they are {proposal[0]:g} and {proposal[1]:g}, add --scale {proposal[0]:g} {proposal[1]:g}, else "
        "give the right ones."
    )


def _ends(values: Sequence[float]) -> str:
    return f"{values[0]:g} to {values[-1]:g}"
