"""EVA: 4,070 photographs with 30 to 46 votes each, 0 to 10, and four attributes (Kang et al., ATQAM/MAST 2020).

There is NO official split: images are split by a hash of their id, 80 % for training, 10 % for validation, 10 % for the
test. The images are images of AVA and keep their ids, so a model that saw AVA has seen many of them.
"""

from __future__ import annotations

import os
from pathlib import Path

import datasets
import numpy as np

from ..ratings.checks import Problems, RatingsError, check_texts, parse_numbers
from ..ratings.tables import read_table
from ..ratings.votes import Votes, votes_of_table
from .reading import build_benchmark, find_path, require_columns, split_by_hash

SCORE_VALUES = tuple(range(11))
ATTRIBUTES = ("visual", "composition", "quality", "semantic")
"""Light and colour, composition and depth, quality, and semantics; very bad 1, very good 4."""

CATEGORIES = {
    "1": "animals",
    "2": "architecture and city scenes",
    "3": "human",
    "4": "natural and rural scenes",
    "5": "still life",
    "6": "other",
}
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


def read_eva(
    folder: str | os.PathLike, *, images: str = "require", image_dir: str | os.PathLike | None = None
) -> datasets.Dataset:
    """EVA from its filtered votes, one row a vote, added up to a histogram and mean attributes for each image.

    Args:
        folder: with data/votes_filtered.csv and images/EVA_together/ or images/EVA_category/.
        images: what becomes of missing image files: "require", "drop" or "ignore".
        image_dir: folder of the images, where it is not one of the usual.
    """
    path = find_path(folder, "data/votes_filtered.csv", "votes_filtered.csv", what="the votes")
    table, lines = read_table(path, delimiter="=")
    require_columns(table, ["image_id", "score", *ATTRIBUTES], path)
    problems = Problems(str(path), lines)
    ids = check_texts(table["image_id"], problems, "image_id")
    scores = parse_numbers(table["score"], problems, "score")
    ratings = {name: parse_numbers(table[name], problems, name) for name in ATTRIBUTES}
    for row in np.flatnonzero(~np.isin(scores, SCORE_VALUES)):
        if int(row) not in problems.rows:
            advice = "allowed: whole numbers from 0 to 10; correct or drop the vote."
            problems.add(
                row, "score", table["score"][row], advice, "negative votes" if scores[row] < 0 else "bad value"
            )
    for name, values in ratings.items():
        for row in np.flatnonzero((values < 1) | (values > 4)):
            problems.add(row, name, values[row], "allowed: 1 to 4; correct the vote, or empty the cell.")
    problems.raise_if_any()
    rows = np.setdiff1d(np.arange(len(ids)), list(problems.rows))
    first: dict[str, int] = {}
    for row in rows.tolist():
        first.setdefault(ids[row], row)
    if not first:
        raise RatingsError(f"'{path}': there is no vote that can be used.")
    keys = list(first)
    number = {key: at for at, key in enumerate(keys)}
    at = np.array([number[ids[row]] for row in rows])  # (votes,) image of each
    votes = np.zeros((len(keys), len(SCORE_VALUES)), dtype=np.int64)
    np.add.at(votes, (at, scores[rows].astype(int)), 1)
    categories = _categories(folder)
    home, paths = _images(folder, image_dir, keys, categories)
    columns = {
        "image": paths,
        "key": keys,
        "distribution": votes,
        "split": split_by_hash(keys, SHARES, "eva"),
        "category": [CATEGORIES.get(categories.get(key, ""), None) for key in keys],
        **{name: _means(values[rows], at, len(keys)) for name, values in ratings.items()},
    }
    return build_benchmark(
        columns,
        SCORE_VALUES,
        name="EVA",
        source=str(path),
        image_dir=home,
        images=images,
        row_names=[lines[row] for row in first.values()],
        attributes=dict.fromkeys(ATTRIBUTES, (1.0, 4.0)),
        column_names={"image": "image_id", "key": "image_id", "distribution": "score"},
        about="EVA has no official split: this one is by a hash of the image id (80/10/10). Its images are AVA images with "
        "AVA's ids: what was trained on AVA must not be tested here.",
    )


def _means(values: np.ndarray, at: np.ndarray, n_images: int) -> list[float | None]:
    """Mean of the votes of each image that are given; null where none is."""
    given = ~np.isnan(values)
    counts = np.bincount(at[given], minlength=n_images)
    sums = np.bincount(at[given], weights=values[given], minlength=n_images)
    return [float(total / count) if count else None for total, count in zip(sums, counts)]


def _categories(folder: str | os.PathLike) -> dict[str, str]:
    """Number of the category of each image."""
    name = "image_content_category.csv"
    path = find_path(folder, f"data/{name}", name, what="the categories", optional=True)
    if path is None:
        return {}
    table, _ = read_table(path)
    require_columns(table, ["image_id", "sort"], path)
    return dict(zip(table["image_id"], table["sort"]))


def _images(
    folder: str | os.PathLike, image_dir: str | os.PathLike | None, keys: list[str], categories: dict[str, str]
) -> tuple[Path, list[str]]:
    """Folder of the images, and their paths in it."""
    together = ("images/EVA_together", "EVA_together", "images/EVA_together/EVA_together")
    by_category = ("images/EVA_category", "EVA_category", "images/EVA_category/EVA_category")
    if image_dir is None:
        home = find_path(folder, *together, what="images", optional=True)
        sorted_by = next(
            (path for name in reversed(by_category) if (path := Path(folder) / name / "1").is_dir()), None
        )
        if home is None and sorted_by is not None:
            return sorted_by.parent, [f"{categories.get(key, 'unknown')}/{key}.jpg" for key in keys]
        image_dir = home or find_path(folder, "images", ".", what="images")
    return Path(image_dir), [f"{key}.jpg" for key in keys]


def read_votes(folder: str | os.PathLike) -> Votes:
    """Who gave which image which score, from votes_filtered.csv. Of a person who rated an image twice, the last vote counts.

    Args:
        folder: with data/votes_filtered.csv.
    """
    path = find_path(folder, "data/votes_filtered.csv", "votes_filtered.csv", what="the votes")
    table, row_names = read_table(path, delimiter="=")
    columns = {"image": "image_id", "rater": "user_id", "vote": "score", "key": None, "split": None}
    return votes_of_table(table, row_names, str(path), columns, repeats="last")
