"""A tiny teacher that was trained and measured as a user would, so that it may be published."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from conftest import draw_photograph
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
    """A CSV of 40 images with histograms over 1..5: brighter is better."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(2)
    with open(folder / "ratings.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "split", *[f"votes_{value}" for value in range(1, 6)]])
        for number in range(40):
            brightness = rng.uniform(0.15, 0.85)
            draw_photograph(rng, brightness).save(folder / f"{number:02d}.png")
            chances = np.exp(-((np.arange(5) - 4 * brightness) ** 2))
            split = ("test", "validation", "train", "train")[number % 4]
            writer.writerow([f"{number:02d}.png", split, *rng.multinomial(30, chances / chances.sum())])
    return str(folder / "ratings.csv")
