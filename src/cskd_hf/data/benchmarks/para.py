"""PARA: 31,220 photographs rated by 438 people, 25 for each image on average (Yang et al., CVPR 2022).

The overall rating is a histogram over nine half steps from 1 to 5; beside it stand the mean ratings of eight attributes
on 1 to 5. Official split: 28,220 training and 3,000 test images, no validation.
"""

from __future__ import annotations

import os

import datasets

from ..ratings.faults import Problems
from ..ratings.tables import read_table
from ..ratings.votes import Votes, votes_of_table
from .reading import (
    VALIDATION_SHARE,
    build_benchmark,
    carve_validation,
    find_path,
    find_split_files,
    parse_votes,
    read_split_files,
    require_columns,
)

SCORE_VALUES = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0)
ATTRIBUTES = {
    "quality": "qualityScore_mean",
    "composition": "compositionScore_mean",
    "color": "colorScore_mean",
    "depth_of_field": "dofScore_mean",
    "light": "lightScore_mean",
    "content": "contentScore_mean",
    "content_preference": "contentPreference_mean",
    "willingness_to_share": "willingnessToShare_mean",
}
"""Columns of the rated set, and what the label files call them."""

_OTHER = {"difficulty": "difficultyOfJudgment_mean", "object_emphasis": "isObjectEmphasis_mean"}


def read_para(
    folder: str | os.PathLike,
    *,
    images: str = "require",
    image_dir: str | os.PathLike | None = None,
    validation_share: float = VALIDATION_SHARE,
) -> datasets.Dataset:
    """PARA with its official split, from the histograms of PARA-GiaaTrain.csv and PARA-GiaaTest.csv.

    The key is session and image name; `category` is the scene ("semantic").

    Args:
        folder: with annotation/ and imgs/.
        images: what becomes of missing image files: "require", "drop" or "ignore".
        image_dir: folder of the sessions, where it is not imgs/.
        validation_share: share of the training images to name "validation".
    """
    names = {
        split: [f"annotation/PARA-Giaa{part}.csv", f"PARA-Giaa{part}.csv"]
        for split, part in (("train", "Train"), ("test", "Test"))
    }
    files = find_split_files(folder, names, "the histograms")
    table, row_names = read_split_files(files)
    paths = list(files.values())
    problems = Problems(str(paths[0] if len(paths) == 1 else paths[0].parent), row_names)
    bins = [f"aestheticScore_{value}" for value in SCORE_VALUES]
    require_columns(table, ["imageName", "sessionId", "semantic", *ATTRIBUTES.values()], problems.source)
    votes = parse_votes(table, bins, problems)
    keys = [f"{session}/{image}" for session, image in zip(table["sessionId"], table["imageName"])]
    columns = {
        "image": keys,
        "key": keys,
        "distribution": votes,
        "split": carve_validation(table["split"], keys, validation_share, "para"),
        "category": table["semantic"],
        "session": table["sessionId"],
        **{name: table[own] for name, own in ATTRIBUTES.items()},
        **{name: _floats(table[own]) for name, own in _OTHER.items() if own in table},
    }
    if "aestheticScore_mean" in table:
        columns["mean"] = table["aestheticScore_mean"]
    home = paths[0].parent if os.path.isfile(folder) else folder
    return build_benchmark(
        columns,
        SCORE_VALUES,
        name="PARA",
        source=problems.source,
        image_dir=image_dir or find_path(home, "imgs", "images", ".", what="the folder of images"),
        images=images,
        attributes=dict.fromkeys(ATTRIBUTES, (1.0, 5.0)),
        column_names={"image": "imageName", "key": "imageName", "distribution": bins, "mean": "aestheticScore_mean"},
        about="The official split of PARA.",
        problems=problems,
    )


def _floats(cells: list) -> list[float | None]:
    try:
        return [None if cell is None else float(cell) for cell in cells]
    except ValueError:
        return cells


def read_votes(folder: str | os.PathLike) -> Votes:
    """Who gave which image which overall rating, from PARA-Images.csv. Of a person who rated an image twice, the last
    rating counts.

    Args:
        folder: with annotation/.
    """
    path = find_path(folder, "annotation/PARA-Images.csv", "PARA-Images.csv", what="the ratings by person")
    table, row_names = read_table(path)
    require_columns(table, ["sessionId", "imageName", "userId", "aestheticScore"], path)
    keys = [f"{session}/{image}" for session, image in zip(table["sessionId"], table["imageName"])]
    table = {"image": keys, "rater": table["userId"], "vote": table["aestheticScore"]}
    names = {"image": "image", "rater": "rater", "vote": "vote"}
    return votes_of_table(table, row_names, str(path), names, repeats="last")
