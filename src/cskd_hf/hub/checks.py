"""What a folder must pass before it is pushed."""

from __future__ import annotations

from pathlib import Path


class PublishError(ValueError):
    """A folder that is not pushed, or a push that failed; the message says why and what to do."""


def find_pickles(folder: Path) -> dict[str, str]:
    """Files of a folder, at any depth, that are pickles or hold one, with the reason; by content and by name."""
    raise NotImplementedError
