"""The model card of a checkpoint, from its facts."""

from __future__ import annotations

import os

from huggingface_hub import ModelCard

from .facts import CheckpointFacts


def model_card(facts: CheckpointFacts, repo_id: str) -> ModelCard:
    """The card: metadata with model-index and widget, and the text.

    Args:
        facts: of `read_facts`.
        repo_id: `organisation/name` that the text loads the model by.
    """
    raise NotImplementedError


def write_card(facts: CheckpointFacts, repo_id: str, folder: str | os.PathLike) -> None:
    """Write README.md, the pictures that its widget shows (examples/), and .eval_results/ where an evaluation is of a
    Hub data set.

    Args:
        facts, repo_id: see `model_card`.
        folder: of the repository.
    """
    raise NotImplementedError
