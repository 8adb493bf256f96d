"""What a fine-tune ended with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .encoded import Encoded
from .estimate import Estimate, HeldOut
from .folds import Plan
from .settings import FinetuneSettings


@dataclass
class Finetuned:
    """What a fine-tune ended with; `report.write_report_files` tells it.

    Attributes:
        settings: of the run.
        scale: how the scale of the ratings is known.
        mode: "probe", "partial" or "full".
        encoded, plan, held, estimate: see their classes.
        pictures: number of different pictures among the rated images.
        shipped: the candidate that was saved.
        reason: why that one.
        final: what was chosen when it was fitted.
        seconds: wall time.
    """

    settings: FinetuneSettings
    scale: str
    mode: str
    encoded: Encoded
    pictures: int
    plan: Plan
    held: HeldOut
    estimate: Estimate
    shipped: str
    reason: str
    final: dict[str, Any]
    seconds: float
