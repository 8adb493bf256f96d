"""AADB: 9,958 photographs of Flickr rated by five people each, with eleven attributes (Kong et al., ECCV 2016).

Scores are means of the five ratings on 0 to 1, without a histogram. Attributes are means on -1 (spoils the picture) to
1 (makes it), repetition and symmetry on 0 to 1. Official split: 8,458 training, 500 validation and 1,000 test images.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import datasets

from ..ratings.checks import Problems, RatingsError
from .reading import VALIDATION_SHARE, build_benchmark, carve_validation, find_path

SCORE_VALUES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""The five ratings of one person; only the ends matter, as there are no histograms."""

ATTRIBUTES = {
    "balancing_elements": "BalacingElements",  # as the files spell it
    "color_harmony": "ColorHarmony",
    "content": "Content",
    "depth_of_field": "DoF",
    "light": "Light",
    "motion_blur": "MotionBlur",
    "object": "Object",
    "repetition": "Repetition",
    "rule_of_thirds": "RuleOfThirds",
    "symmetry": "Symmetry",
    "vivid_color": "VividColor",
}
"""Columns of the rated set, and what the label files call them."""

_SPLITS = {"train": "Train", "validation": "Validation", "test": "TestNew"}
_FOLDERS = (
    "datasetImages_originalSize",
    "AADB_newtest_originalSize",
    "AADB_newtest",
    "datasetImages_warp256",
    "images",
)
_PREFIX = re.compile(r"\d\.\d{3}_")  # the files of the new test set start with their score


def read_aadb(
    folder: str | os.PathLike,
    *,
    images: str = "require",
    image_dir: str | os.PathLike | None = None,
    validation_share: float = VALIDATION_SHARE,
) -> datasets.Dataset:
    """AADB with its official split, from the text files of labels or, without them, from AADBinfo.mat.

    AADBinfo.mat has neither attributes nor the 500 validation images: a validation split is carved out of its training
    images.

    Args:
        folder: with imgListFiles_label/ or AADBinfo.mat, and the images in datasetImages_originalSize/ and
            AADB_newtest_originalSize/, or all in datasetImages_warp256/.
        images: what becomes of missing image files: "require", "drop" or "ignore".
        image_dir: one folder with all images, instead.
        validation_share: share of the training images of AADBinfo.mat to name "validation".
    """
    root = Path(folder)
    if root.suffix == ".mat" and root.is_file():
        path, labels = root, None
    else:
        score = f"imgList{_SPLITS['train']}Regression_score.txt"
        options = [
            f"imgListFiles_label/{score}",
            f"labels/{score}",
            f"imgListFiles_label/imgListFiles_label/{score}",
            score,
        ]
        labels = find_path(root, *options, what="the labels", optional=True)
        path = None if labels else find_path(root, *options, "AADBinfo.mat", what="the labels (one of these)")
    if labels:
        names, columns, problems = _read_texts(labels.parent)
        about = "The official split of AADB."
        known = {"mean": "score"}
    else:
        names, columns, problems = _read_mat(path)
        columns["split"] = carve_validation(columns["split"], names, validation_share, "aadb")
        about = "The official training and test images of AADB; AADBinfo.mat lacks its 500 validation images."
        known = {"mean": "trainScore / testScore"}
    home = path.parent if labels is None else root
    columns["image"] = names if images == "ignore" else _find_images(names, image_dir or home, image_dir is not None)
    attributes = {name: _scale(name) for name in ATTRIBUTES if name in columns}
    return build_benchmark(
        {**columns, "key": names},
        SCORE_VALUES,
        name="AADB",
        source=problems.source,
        image_dir=image_dir or home,
        images=images,
        attributes=attributes,
        column_names={"image": "name", "key": "name", **known},
        about=about,
        problems=problems,
    )


def _scale(attribute: str) -> tuple[float, float]:
    return (0.0, 1.0) if attribute in ("repetition", "symmetry") else (-1.0, 1.0)


def _read_texts(folder: Path) -> tuple[list[str], dict[str, list], Problems]:
    names, splits, scores, row_names = [], [], [], []
    ratings: dict[str, list] = {name: [] for name in ATTRIBUTES}
    for split, infix in _SPLITS.items():
        path = folder / f"imgList{infix}Regression_score.txt"
        if not path.is_file():
            raise RatingsError(f"'{path}' is missing; needed are the labels of {', '.join(_SPLITS.values())}.")
        pairs = _read_pairs(path)
        names += [name for name, _, _ in pairs]
        scores += [score for _, score, _ in pairs]
        row_names += [f"{path.name} {line}" for _, _, line in pairs]
        splits += [split] * len(pairs)
        for column, own in ATTRIBUTES.items():
            file = folder / f"imgList{infix}Regression_{own}.txt"
            by_name = {name: score for name, score, _ in _read_pairs(file)} if file.is_file() else {}
            ratings[column] += [by_name.get(name) for name, _, _ in pairs]
    rated = {column: cells for column, cells in ratings.items() if any(cell is not None for cell in cells)}
    return names, {"mean": scores, "split": splits, **rated}, Problems(str(folder), row_names)


def _read_pairs(path: Path) -> list[tuple[str, str, str]]:
    """Name, score and line of each row."""
    pairs, row_names = [], []
    problems = Problems(str(path), row_names)
    for line, text in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        cells = text.split()
        if len(cells) == 2:
            pairs.append((cells[0], cells[1], f"line {line}"))
        elif cells:
            row_names.append(f"line {line}")
            problems.add(len(row_names) - 1, "name score", text, "allowed: a name, a space and a score.")
    problems.raise_if_any()
    return pairs


def _read_mat(path: Path) -> tuple[list[str], dict[str, list], Problems]:
    from scipy.io import loadmat

    try:
        data = loadmat(path)
        parts = {
            split: (
                [str(cell.item()).strip() for cell in data[f"{split}NameList"].ravel()],
                data[f"{split}Score"].ravel(),
            )
            for split in ("train", "test")
        }
    except (KeyError, ValueError, TypeError) as error:
        raise RatingsError(
            f"'{path}' cannot be read as AADBinfo.mat ({error}); needed: trainNameList, trainScore, testNameList, testScore."
        ) from error
    for split, (names, scores) in parts.items():
        if len(names) != len(scores):
            raise RatingsError(f"'{path}': {split}NameList has {len(names)} entries, {split}Score {len(scores)}.")
    names = [name for part, _ in parts.values() for name in part]
    scores = [float(score) for _, part in parts.values() for score in part]
    splits = [split for split, (part, _) in parts.items() for _ in part]
    row_names = [f"{split} entry {row + 1}" for split, (part, _) in parts.items() for row in range(len(part))]
    return names, {"mean": scores, "split": splits}, Problems(str(path), row_names)


def _find_images(names: Sequence[str], root: str | os.PathLike, only: bool) -> list[str]:
    """Path of each image below `root`; the first folder where one is not found, to be named as missing.

    Args:
        names: of the images.
        root: of the data set, or the folder of all images.
        only: look in `root` alone.
    """
    folders = [Path(root)] if only else [path for name in _FOLDERS if (path := Path(root) / name).is_dir()]
    found: dict[str, str] = {}
    for folder in folders:
        for file in sorted(entry.name for entry in os.scandir(folder)) if folder.is_dir() else ():
            relative = os.path.relpath(folder / file, root)
            found.setdefault(file, relative)
            found.setdefault(_PREFIX.sub("", file, count=1), relative)
    first = os.path.relpath(folders[0], root) if folders else _FOLDERS[0]
    return [found.get(name) or os.path.normpath(os.path.join(first, name)) for name in names]
