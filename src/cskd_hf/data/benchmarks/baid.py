"""BAID: 60,337 works of art from BoldBrush with a score from the number of votes for them (Yi et al., CVPR 2023).

Scores are on 0 to 10 (2.70 to 10 occur, most near 4), without a histogram. Official split: 50,737 training, 3,200
validation and 6,400 test images.
"""

from __future__ import annotations

import os

import datasets

from ..ratings.faults import Problems
from .reading import build_benchmark, find_path, find_split_files, read_split_files, require_columns

SCORE_VALUES = tuple(range(11))
"""Ends of the scale and, for a head or soft bins, steps between them; there are no histograms."""

_FILES = {"train": "train_set.csv", "validation": "val_set.csv", "test": "test_set.csv"}


def read_baid(
    folder: str | os.PathLike, *, images: str = "require", image_dir: str | os.PathLike | None = None
) -> datasets.Dataset:
    """BAID with its official split, from dataset/train_set.csv, val_set.csv and test_set.csv.

    Args:
        folder: with dataset/, and the images in images/.
        images: what becomes of missing image files: "require", "drop" or "ignore".
        image_dir: folder of the images, where it is not images/.
    """
    names = {split: [f"dataset/{name}", name] for split, name in _FILES.items()}
    files = find_split_files(folder, names, "the scores")
    table, row_names = read_split_files(files)
    paths = list(files.values())
    require_columns(table, ["image", "score"], paths[0])
    problems = Problems(str(paths[0] if len(paths) == 1 else paths[0].parent), row_names)
    home = paths[0].parent if os.path.isfile(folder) else folder
    return build_benchmark(
        {"image": table["image"], "key": table["image"], "mean": table["score"], "split": table["split"]},
        SCORE_VALUES,
        name="BAID",
        source=problems.source,
        image_dir=image_dir or find_path(home, "images", "dataset/images", ".", what="the folder of images"),
        images=images,
        column_names={"key": "image", "mean": "score"},
        about="The official split of BAID. Scores come from the number of votes for a picture, not from ratings of it.",
        problems=problems,
    )
