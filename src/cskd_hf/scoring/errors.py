"""The error of the scoring commands."""

from __future__ import annotations


class ScoringError(ValueError):
    """Scoring cannot start; the message says what was given and what is allowed."""
