"""TAD66K: 66,327 photographs of 47 themes with mean scores (He et al., IJCAI 2022).

Scores are means on 1 to 10, without a histogram. Official split: 52,248 training and 14,079 test images, no validation.
"""

from __future__ import annotations

import os

import datasets

from ..ratings.checks import check_texts
from ..ratings.faults import Problems
from ..ratings.tables import read_table
from .reading import (
    VALIDATION_SHARE,
    build_benchmark,
    carve_validation,
    find_path,
    find_split_files,
    read_split_files,
    require_columns,
)

SCORE_VALUES = tuple(range(1, 11))
"""Ends of the scale and, for a head or soft bins, steps between them; there are no histograms."""

_HOMES = ("", "labels/", "TAD66K/", "TAD66K/labels/")


def read_tad66k(
    folder: str | os.PathLike,
    *,
    images: str = "require",
    image_dir: str | os.PathLike | None = None,
    validation_share: float = VALIDATION_SHARE,
) -> datasets.Dataset:
    """TAD66K with its official split, from merge/train.csv and merge/test.csv.

    `theme` is the name of the file in unmerge/ that has the image; an image of several themes has their names joined by
    "|".

    Args:
        folder: with merge/, and unmerge/ for the themes, and the images in TAD66K/ or images/.
        images: what becomes of missing image files: "require", "drop" or "ignore".
        image_dir: folder of the images, where it is not one of the usual.
        validation_share: share of the training images to name "validation".
    """
    names = {split: [f"{home}merge/{split}.csv" for home in _HOMES] for split in ("train", "test")}
    files = find_split_files(folder, names, "the scores")
    table, row_names = read_split_files(files)
    paths = list(files.values())
    require_columns(table, ["image", "score"], paths[0])
    problems = Problems(str(paths[0] if len(paths) == 1 else paths[0].parent), row_names)
    keys = check_texts(table["image"], problems, "image")
    home = paths[0].parent if os.path.isfile(folder) else folder
    themes = {} if os.path.isfile(folder) else _themes(folder)
    extra = {"theme": [themes.get(key) for key in keys]} if themes else {}
    return build_benchmark(
        {
            "image": keys,
            "key": keys,
            "mean": table["score"],
            "split": carve_validation(table["split"], keys, validation_share, "tad66k"),
            **extra,
        },
        SCORE_VALUES,
        name="TAD66K",
        source=problems.source,
        image_dir=image_dir or find_path(home, "TAD66K", "images", ".", what="the folder of images"),
        images=images,
        column_names={"key": "image", "mean": "score"},
        about="The official split of TAD66K (merge/).",
        problems=problems,
    )


def _themes(folder: str | os.PathLike) -> dict[str, str]:
    """Theme of each image, from the files of unmerge/train and unmerge/test."""
    home = find_path(folder, *(f"{home}unmerge" for home in _HOMES), what="the themes", optional=True)
    themes: dict[str, set[str]] = {}
    for path in sorted(home.glob("*/*.csv")) if home else []:
        table, _ = read_table(path)
        require_columns(table, ["image"], path)
        for image in table["image"]:
            themes.setdefault(image, set()).add(path.stem)
    return {image: "|".join(sorted(names)) for image, names in themes.items()}
