"""Star ratings from percentiles."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from ..errors import ScoringError
from .looking import Photograph
from .options import DEFAULT_CUTS


def check_cuts(cuts: Sequence[float]) -> tuple[float, ...]:
    """Four rising percentiles.

    Raises:
        ScoringError: they are something else.
    """
    if len(cuts) != 4 or any(a >= b for a, b in zip(cuts, cuts[1:])) or not (0 < cuts[0] and cuts[-1] < 100):
        given = " ".join(f"{cut:g}" for cut in cuts)
        raise ScoringError(f"--stars {given} must be four rising percentiles between 0 and 100, e.g. 20 50 80 95.")
    return tuple(float(cut) for cut in cuts)


def no_percentiles() -> ScoringError:
    """Of a model whose percentiles are asked for."""
    return ScoringError(
        "--stars-from model: this model has no percentiles; `cskd-hf calibrate` gives it some, or take `folder`."
    )


def give_stars(
    photographs: Sequence[Photograph], *, source: str = "auto", cuts: Sequence[float] = DEFAULT_CUTS
) -> str:
    """Set `percentile` and `stars` of every photograph that has a score.

    Args:
        photographs: those of the folder.
        source: "model": the percentile in the reference set that the model was calibrated with; "folder": among these
            photographs, equal scores sharing the middle of their places; "auto": the model's where it has one.
        cuts: where two, three, four and five stars begin.

    Returns:
        which it was, "model" or "folder".

    Raises:
        ScoringError: the model's are asked for and it has none.
    """
    scored = [photograph for photograph in photographs if photograph.score is not None]
    calibrated = bool(scored) and all("percentile" in photograph.result for photograph in scored)
    if source == "model" and scored and not calibrated:
        raise no_percentiles()
    chosen = "model" if calibrated and source != "folder" else "folder"
    if chosen == "model":
        percentiles = [photograph.result["percentile"] for photograph in scored]
    else:
        percentiles = folder_percentiles(np.array([photograph.score for photograph in scored]))
    for photograph, percentile in zip(scored, percentiles):
        photograph.percentile = float(percentile)
        photograph.stars = 1 + bisect_right(cuts, percentile)
    return chosen


def folder_percentiles(scores: np.ndarray) -> np.ndarray:
    """Share of all in percent that scores lower, half of the equal ones and of itself counted.

    Args:
        scores: (n,).

    Returns:
        (n,), above 0 and below 100.
    """
    ordered = np.sort(scores)
    below = np.searchsorted(ordered, scores, side="left")
    up_to = np.searchsorted(ordered, scores, side="right")
    return 50.0 * (below + up_to) / max(len(scores), 1)
