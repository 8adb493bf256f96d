"""SPAQ: 11,125 photographs of 66 smartphones rated for technical quality, with five attributes (Fang et al., CVPR 2020).

Scores and attributes are means on 0 to 100, without a histogram; they are kept as published, also `noisiness`, which is
higher where there is LESS noise. There is NO official split: papers draw 80/20 at random. A list of test images beside
the annotations is used where there is one (Q-Align's has 2,224); else the split is by a hash of the name.
"""

from __future__ import annotations

import os

import datasets

from ..ratings.checks import check_texts
from ..ratings.faults import Problems
from .lists import listed_or_own_split
from .reading import VALIDATION_SHARE, build_benchmark, find_path, require_columns
from .xlsx import read_xlsx

SCORE_VALUES = tuple(range(0, 101, 10))
"""Ends of the scale and, for a head or soft bins, steps between them; there are no histograms."""

ATTRIBUTES = {name.lower(): name for name in ("Brightness", "Colorfulness", "Contrast", "Noisiness", "Sharpness")}
"""Columns of the rated set, and what the label file calls them."""

_SCORES = "MOS and Image attribute scores.xlsx"
_SCENES = "Scene category labels.xlsx"
_HOMES = ("Annotations/", "annotations/", "TestAnnotations/", "")


def read_spaq(
    folder: str | os.PathLike,
    *,
    images: str = "require",
    image_dir: str | os.PathLike | None = None,
    validation_share: float = VALIDATION_SHARE,
    test_list: str = "",
) -> datasets.Dataset:
    """SPAQ from "MOS and Image attribute scores.xlsx".

    `category` has the names of the scenes in "Scene category labels.xlsx", joined by "|", where that file is there.

    Args:
        folder: with Annotations/ and TestImage/.
        images: what becomes of missing image files: "require", "drop" or "ignore".
        image_dir: folder of the images, where it is not TestImage/.
        validation_share: share of the training images to name "validation".
        test_list: file with the names of the test images.
    """
    path = find_path(folder, *(home + _SCORES for home in _HOMES), what="the scores")
    table, row_names = read_xlsx(path)
    require_columns(table, ["Image name", "MOS", *ATTRIBUTES.values()], path)
    problems = Problems(str(path), row_names)
    keys = check_texts(table["Image name"], problems, "Image name")
    splits, about = listed_or_own_split(keys, folder, test_list, "spaq", 0.2, validation_share)
    scenes = _scenes(folder)
    extra = {"category": [scenes.get(key) for key in keys]} if scenes else {}
    return build_benchmark(
        {
            "image": keys,
            "key": keys,
            "mean": table["MOS"],
            "split": splits,
            **{name: table[own] for name, own in ATTRIBUTES.items()},
            **extra,
        },
        SCORE_VALUES,
        name="SPAQ",
        source=str(path),
        image_dir=image_dir or find_path(folder, "TestImage", "SPAQ/TestImage", "images", ".", what="images"),
        images=images,
        attributes=dict.fromkeys(ATTRIBUTES, (0.0, 100.0)),
        column_names={"key": "Image name", "mean": "MOS"},
        about=about,
        problems=problems,
    )


def _scenes(folder: str | os.PathLike) -> dict[str, str | None]:
    """Names of the scenes of each image."""
    path = find_path(folder, *(home + _SCENES for home in _HOMES), what="the scenes", optional=True)
    if path is None:
        return {}
    table, _ = read_xlsx(path)
    require_columns(table, ["Image name"], path)
    names = [name for name in table if name != "Image name"]
    rows = zip(*(table[name] for name in names))
    return {
        str(image): "|".join(name for name, cell in zip(names, row) if cell and float(cell) > 0) or None
        for image, row in zip(table["Image name"], rows)
    }
