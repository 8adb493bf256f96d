"""Courses of a loss weight over a run: functions of the step alone, so that a resumed run goes on in them."""

from __future__ import annotations

import math


def schedule_factor(schedule: str, progress: float, share: float) -> float:
    """Factor of a weight, 0 to 1.

    ramp-up and ramp-down are those of temporal ensembling (Laine & Aila, arXiv 1610.02242, which Mean Teacher took over):
    exp(-5 (1 - x)^2) over the first `share` of the run, exp(-12.5 x^2) over the last, with x from 0 to 1 along the ramp.

    Args:
        schedule: "constant", "ramp-up", "ramp-down", or "cosine": from 1 to 0 by half a cosine over the whole run.
        progress: share of the run that is done, 0 to 1.
        share: of the run that a ramp takes, above 0.
    """
    if schedule == "constant":
        return 1.0
    if schedule == "ramp-up":
        return math.exp(-5 * (1 - min(progress / share, 1.0)) ** 2)
    if schedule == "ramp-down":
        return math.exp(-12.5 * max((progress - 1 + share) / share, 0.0) ** 2)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    raise ValueError(f"schedule={schedule!r} is not known; allowed: constant, ramp-up, ramp-down, cosine.")
