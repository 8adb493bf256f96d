"""What a score means beside others: its percentile in a reference set, and the rating that images of its kind got."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

_FIELDS = ("reference", "images", "quantiles", "map")
_ADVICE = "`cskd-hf calibrate` writes it"


def checked_calibration(calibration: Any) -> dict[str, Any] | None:
    """The `calibration` of a config, or None where there is none.

    Args:
        calibration: mapping with `quantiles`, scores of the reference set at even steps from the lowest to the highest;
            optionally `reference` (name of the set), `images` (how many) and `map`, two equally long rising lists: a
            score of `scores` answers to the rating at its place in `ratings`.

    Raises:
        ValueError: it is something else; the message names what.
    """
    if calibration is None:
        return None
    if not isinstance(calibration, Mapping) or set(calibration) - set(_FIELDS):
        raise ValueError(f"calibration={calibration!r} must be a mapping with {', '.join(_FIELDS)}; {_ADVICE}.")
    checked = dict(calibration)
    checked["quantiles"] = _rising("quantiles", calibration.get("quantiles"))
    if calibration.get("map") is not None:
        if not isinstance(calibration["map"], Mapping):
            raise ValueError(f"calibration's map={calibration['map']!r} must hold 'scores' and 'ratings'; {_ADVICE}.")
        pairs = {name: _rising(name, calibration["map"].get(name)) for name in ("scores", "ratings")}
        if len(pairs["scores"]) != len(pairs["ratings"]):
            raise ValueError(
                f"calibration's map has {len(pairs['scores'])} scores and {len(pairs['ratings'])} ratings; {_ADVICE}."
            )
        checked["map"] = pairs
    return checked


def percentile(score: float, quantiles: Sequence[float]) -> float:
    """Share of the reference set, in percent, that scores lower: linear between its quantiles, 0 below and 100 above
    all; of several equal quantiles the middle.

    Args:
        score: on the scale of the model.
        quantiles: of the reference set's scores, at even steps from 0 to 100 %, not falling.
    """
    return 100 * _position(score, quantiles) / (len(quantiles) - 1)


def calibrated_score(score: float, scores: Sequence[float], ratings: Sequence[float]) -> float:
    """The rating that a score answers to: linear between the pairs of the map, constant beyond its ends."""
    position = _position(score, scores)
    below = min(int(position), len(ratings) - 2)
    return ratings[below] + (position - below) * (ratings[below + 1] - ratings[below])


def _position(value: float, points: Sequence[float]) -> float:
    """Where a value stands among rising points: 0 at the first, 1 at the second, ..."""
    first, after = bisect_left(points, value), bisect_right(points, value)
    if after > first:
        return (first + after - 1) / 2
    if first in (0, len(points)):
        return 0.0 if first == 0 else len(points) - 1.0
    return first - 1 + (value - points[first - 1]) / (points[first] - points[first - 1])


def _rising(name: str, numbers: Any) -> list[float]:
    if (
        not isinstance(numbers, (list, tuple))
        or len(numbers) < 2
        or not all(isinstance(number, (int, float)) and math.isfinite(number) for number in numbers)
        or any(a > b for a, b in zip(numbers, numbers[1:]))
    ):
        raise ValueError(
            f"calibration's {name}={numbers!r} must be two or more finite numbers, none falling; {_ADVICE}."
        )
    return [float(number) for number in numbers]
