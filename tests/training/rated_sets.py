"""Rated sets of unlike kinds over the images of the `ratings` fixture: brighter is better in each."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from cskd_hf.data.ratings import build_ratings


def with_attributes(ratings: str, folder: Path, name: str = "attributes", **scales: tuple[float, float]) -> str:
    """A saved set of the first 32 images: histograms over 1..5 for two thirds, means for the rest, and attributes that
    rise with the rating, of which every fourth is not known."""
    scales = scales or {"light": (-1.0, 1.0), "color": (1.0, 5.0)}
    rows = []
    for number, row in enumerate(_rows(ratings)[:32]):
        votes = np.array([float(row[f"votes_{value}"]) for value in range(1, 6)])
        mean = float(votes @ np.arange(1, 6) / votes.sum())
        share = (mean - 1) / 4
        known = number % 4 != 3
        values = {key: low + (high - low) * share if known else None for key, (low, high) in scales.items()}
        rows.append(
            {
                "image": row["image"],
                "split": row["split"],
                "distribution": votes.astype(int).tolist() if number % 3 else None,
                "mean": mean,
                **values,
            }
        )
    saved = build_ratings(rows, range(1, 6), name=name, image_dir=str(Path(ratings).parent), attributes=scales)
    saved.save_to_disk(folder / name)
    return str(folder / name)


def of_means(ratings: str, folder: Path, first: int = 32) -> str:
    """A CSV of mean ratings on 0..10, of the images from `first` on, all of them to train on."""
    with open(folder / "means.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "split", "mean"])
        for row in _rows(ratings)[first:]:
            votes = np.array([float(row[f"votes_{value}"]) for value in range(1, 6)])
            mean = (votes @ np.arange(1, 6) / votes.sum() - 1) * 2.5
            writer.writerow([Path(ratings).parent / row["image"], "train", f"{mean:.4f}"])
    return str(folder / "means.csv")


def _rows(ratings: str) -> list[dict[str, str]]:
    with open(ratings, newline="") as file:
        return list(csv.DictReader(file))
