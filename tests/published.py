"""A tiny teacher that was trained and measured as a user would, so that it may be published."""

from __future__ import annotations

from pathlib import Path

from conftest import write_rated_images
from cskd_hf.cli import main

LICENSES = ["--license", "apache-2.0", "--data-license", "ratings=CC0-1.0"]


def trained_and_measured(folder: Path, encoder: str) -> Path:
    """Train an encoder for a few steps on rated images, and evaluate it on others.

    Returns:
        the run's folder, with the evaluation inside.
    """
    ratings = _rated_images(folder / "rated")
    run = folder / "tiny-teacher"
    options = ["--image-size", "32", "--max-steps", "4", "--batch-size", "8", "--cpu", "--quiet"]
    assert main(["teacher", "--encoder", encoder, "--ratings", ratings, "--output-dir", str(run), *options]) == 0
    measured = ["--output", str(run / "evaluation"), "--bootstrap", "100", "--cpu", "--quiet"]
    assert main(["evaluate", str(run), ratings, "--split", "test", *measured]) == 0
    return run


def _rated_images(folder: Path) -> str:
    """40 images, a quarter of them for the test."""
    return write_rated_images(folder, ["test", "validation", "train", "train"] * 10, seed=2)
