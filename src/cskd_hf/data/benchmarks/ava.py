"""AVA: about 255,500 photographs of a contest site with 78 to 549 votes each, 1 to 10 (Murray et al., CVPR 2012).

Four layouts are in use, and they have DIFFERENT splits:

| reader        | files                                  | split                                                            |
|---------------|----------------------------------------|------------------------------------------------------------------|
| `ava`         | AVA.txt, aesthetics_image_lists/*.jpgl | the official one: 20,000 test images, about 19,930 of them exist |
| `ava-tanet`   | train.csv, val.csv, test.csv           | random 90/5/5 of TANet: 12,776 test images                       |
| `ava-idealo`  | ava_labels_{train,test}.json           | random 90/10 of idealo: 25,551 test images                       |
| `ava-pyiqa`   | meta_info_AVADataset.csv               | the official one or ILGnet's, as pyiqa records them              |

Most of the official test images are training images of TANet and idealo, so figures of different splits cannot be
compared, and a model trained on one must not be tested on another.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets

from ..ratings.checks import Problems, RatingsError, suggest
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

SCORE_VALUES = tuple(range(1, 11))
_IMAGE_FOLDERS = ("images", "image", "ava_images", "AVA_images", "images/images", "AVA_dataset/images", ".")
_OTHER = (
    "This is NOT the official split of AVA: {whose}, {count} test images. Its training images hold images of the "
    "official test set; compare figures, and test models, within this split only."
)


def read_ava(
    folder: str | os.PathLike,
    *,
    images: str = "require",
    image_dir: str | os.PathLike | None = None,
    validation_share: float = VALIDATION_SHARE,
) -> datasets.Dataset:
    """AVA as published, with its official split: the test images are those of `generic_test.jpgl`.

    All other images of AVA.txt are for training; there is no official validation split, so one is carved out of them.
    About 70 of the 20,000 test images were never available: `images="drop"` leaves them out.

    Args:
        folder: with AVA.txt, aesthetics_image_lists/ and images/; tags.txt and challenges.txt name `category` and
            `theme` where they are there.
        images: what becomes of missing image files: "require", "drop" or "ignore".
        image_dir: folder of the images, where it is not one of the usual.
        validation_share: share of the training images to name "validation".
    """
    path = find_path(folder, "AVA.txt", "AVA_dataset/AVA.txt", "labels/AVA.txt", what="the list of votes")
    lists = path.parent
    test_list = find_path(
        lists, "aesthetics_image_lists/generic_test.jpgl", "generic_test.jpgl", what="the official test list"
    )
    rows, row_names = _read_rows(path, columns=15)
    problems = Problems(str(path), row_names)
    table = {name: [row[at] for row in rows] for at, name in enumerate(_COLUMNS)}
    ids = table["image id"]
    test = set(test_list.read_text().split())
    splits = ["test" if name in test else "train" for name in ids]
    extra = _tags(table, lists)
    known, listed = set(ids), len(test)
    about = f"The official split of AVA: {listed} test ids in {test_list.name}, training on all others."
    if unknown := len(test - known):
        about += f" {unknown} of the test ids have no votes in {path.name}."
    votes = parse_votes(table, _VOTES, problems)
    return _build(
        folder, ids, votes, carve_validation(splits, ids, validation_share, "ava"), problems, "AVA", about,
        images, image_dir, extra, _VOTES,
    )  # fmt: skip


_VOTES = [f"votes for {value}" for value in SCORE_VALUES]
_COLUMNS = ["index", "image id", *_VOTES, "tag1", "tag2", "challenge"]


def _read_rows(path: Path, columns: int) -> tuple[list[list[str]], list[str]]:
    """Rows of a file separated by spaces."""
    rows, row_names = [], []
    problems = Problems(str(path), row_names)
    with path.open(encoding="utf-8-sig") as file:
        for line, text in enumerate(file, start=1):
            if not (row := text.split()):
                continue
            row_names.append(f"line {line}")
            if len(row) == columns:
                rows.append(row)
                continue
            advice = f"the row has {len(row)} cells, allowed: {columns}, of which 10 are counts of votes."
            problems.add(len(row_names) - 1, "votes", text.strip(), advice, "wrong bin count")
            row_names.pop()
            if problems.collected is None:
                rows.append(row)
                row_names.append(f"line {line}")
    problems.raise_if_any()
    return rows, row_names


def _tags(table: Mapping[str, list[str]], folder: Path) -> dict[str, list]:
    """The semantic tags and the challenge of each image; the first tag is its category, the challenge its theme."""
    names = {}
    for kind in ("tags", "challenges"):
        path = find_path(folder, f"{kind}.txt", what=kind, optional=True)
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path else []
        pairs = [line.split(maxsplit=1) for line in lines]
        names[kind] = {pair[0]: pair[1].strip().replace("_", " ") for pair in pairs if len(pair) == 2}
    return {
        "category": [None if tag == "0" else names["tags"].get(tag, f"tag {tag}") for tag in table["tag1"]],
        "second_category": [None if tag == "0" else names["tags"].get(tag, f"tag {tag}") for tag in table["tag2"]],
        "theme": [names["challenges"].get(one, f"challenge {one}") for one in table["challenge"]],
    }


def read_ava_tanet(
    folder: str | os.PathLike, *, images: str = "require", image_dir: str | os.PathLike | None = None
) -> datasets.Dataset:
    """AVA in the CSV layout of TANet (He et al., IJCAI 2022), also used by AesCLIP and EAT. NOT the official split.

    `score2` holds the votes for 1, `score11` those for 10. Only 975 of its 12,776 test images are in the official test
    set.

    Args:
        folder: with train.csv, val.csv and test.csv, or one of the files; images in images/.
        images: what becomes of missing image files: "require", "drop" or "ignore".
        image_dir: folder of the images, where it is not one of the usual.
    """
    names = {
        "train": ["train.csv", "AVA_train.csv", "ava_tanet_train.csv", "labels/train.csv"],
        "validation": ["val.csv", "validation.csv", "AVA_val.csv", "ava_tanet_val.csv", "labels/val.csv"],
        "test": ["test.csv", "AVA_test.csv", "ava_tanet_test.csv", "labels/test.csv"],
    }
    files = find_split_files(folder, names, "the votes in TANet's layout")
    table, row_names = read_split_files(files)
    problems = Problems(_source(files), row_names)
    require_columns(table, ["image_id", "tag1", "tag2", "tag3"], problems.source)
    bins = [f"score{number}" for number in range(2, 12)]
    votes = parse_votes(table, bins, problems)
    about = _OTHER.format(whose="the random 90/5/5 split of TANet", count="12,776")
    extra = _tags({"tag1": table["tag1"], "tag2": table["tag2"], "challenge": table["tag3"]}, _home(folder))
    return _build(
        folder, table["image_id"], votes, table["split"], problems, "AVA (TANet split)", about, images, image_dir,
        extra, bins,
    )  # fmt: skip


def read_ava_idealo(
    folder: str | os.PathLike,
    *,
    images: str = "require",
    image_dir: str | os.PathLike | None = None,
    validation_share: float = VALIDATION_SHARE,
) -> datasets.Dataset:
    """AVA in the JSON layout of idealo/image-quality-assessment. NOT the official split.

    Only 1,945 of its 25,551 test images are in the official test set.

    Args:
        folder: with ava_labels_train.json and ava_labels_test.json, or one of the files; images in images/.
        images: what becomes of missing image files: "require", "drop" or "ignore".
        image_dir: folder of the images, where it is not one of the usual.
        validation_share: share of the training images to name "validation".
    """
    names = {
        split: [f"ava_labels_{split}.json", f"AVA/ava_labels_{split}.json", f"data/AVA/ava_labels_{split}.json"]
        for split in ("train", "test")
    }
    files = find_split_files(folder, names, "the votes in idealo's layout")
    ids, votes, splits, row_names = [], [], [], []
    for split, path in files.items():
        for number, item in enumerate(_read_json(path), start=1):
            ids.append(str(item["image_id"]))
            votes.append(item["label"])
            splits.append(split)
            row_names.append(f"{path.name} item {number}")
    problems = Problems(_source(files), row_names)
    about = _OTHER.format(whose="the random 90/10 split of idealo", count="25,551")
    splits = carve_validation(splits, ids, validation_share, "ava-idealo")
    return _build(
        folder, ids, votes, splits, problems, "AVA (idealo split)", about, images, image_dir, {}, "label"
    )  # fmt: skip


def _read_json(path: Path) -> list[dict[str, Any]]:
    try:
        items = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RatingsError(f"'{path}' is not JSON ({error}).") from error
    form = '[{"image_id": "953619", "label": [10 counts]}, ...]'
    if not isinstance(items, list) or not items:
        raise RatingsError(f"'{path}' holds no list of images; allowed: {form}.")
    for number, item in enumerate(items, start=1):
        if not isinstance(item, dict) or not {"image_id", "label"} <= set(item):
            raise RatingsError(f"'{path}': item {number} is {str(item)[:80]}; allowed: {form}.")
    return items


def read_ava_pyiqa(
    folder: str | os.PathLike,
    *,
    images: str = "require",
    image_dir: str | os.PathLike | None = None,
    split_column: str = "official",
    validation_share: float = VALIDATION_SHARE,
) -> datasets.Dataset:
    """AVA in the CSV layout of pyiqa: img_name, MOS, c1..c10, semantic_tag1, semantic_tag2, official split, ILGnet split.

    The splits are 0 (train), 1 (validation) and 2 (test). pyiqa keeps only images that it could open.

    Args:
        folder: with meta_info_AVADataset.csv, or that file; images in images/.
        images: what becomes of missing image files: "require", "drop" or "ignore".
        image_dir: folder of the images, where it is not one of the usual.
        split_column: "official", or "ilgnet" for the split of ILGnet, which is NOT the official one.
        validation_share: share of the training images to name "validation", where the file names none.
    """
    columns = {"official": "official split", "ilgnet": "ILGnet split"}
    if split_column not in columns:
        hint = suggest(split_column, columns)
        raise RatingsError(f"`split_column` is {split_column!r}{hint}; allowed: {list(columns)}.")
    name = "meta_info_AVADataset.csv"
    path = Path(folder)
    if not path.is_file():
        path = find_path(folder, name, f"meta_info/{name}", f"AVA_dataset/{name}", what="the votes in pyiqa's layout")
    files = {"": path}
    table, row_names = read_split_files(files)
    problems = Problems(str(path), row_names)
    bins = [f"c{value}" for value in SCORE_VALUES]
    require_columns(table, ["img_name", "semantic_tag1", "semantic_tag2", columns[split_column]], path)
    votes = parse_votes(table, bins, problems)
    splits = []
    for row, cell in enumerate(table[columns[split_column]]):
        splits.append({"0": "train", "1": "validation", "2": "test"}.get(str(cell), ""))
        if not splits[-1]:
            problems.add(row, columns[split_column], cell, "allowed: 0 (train), 1 (validation), 2 (test).")
            splits[-1] = "train"
    ids = [str(cell or "").removesuffix(".jpg") for cell in table["img_name"]]
    if "validation" not in splits:
        splits = carve_validation(splits, ids, validation_share, "ava")
    about = "The official split of AVA as pyiqa records it, without the images that pyiqa could not open."
    if split_column == "ilgnet":
        about = _OTHER.format(whose="the split of ILGnet as pyiqa records it", count=splits.count("test"))
    tags = {"tag1": table["semantic_tag1"], "tag2": table["semantic_tag2"], "challenge": ["0"] * len(ids)}
    extra = {name: cells for name, cells in _tags(tags, _home(folder)).items() if name != "theme"}
    label = f"AVA ({'official split, pyiqa' if split_column == 'official' else 'ILGnet split'})"
    return _build(folder, ids, votes, splits, problems, label, about, images, image_dir, extra, bins)


def _home(folder: str | os.PathLike) -> Path:
    path = Path(folder)
    return path.parent if path.is_file() else path


def _source(files: Mapping[str, Path]) -> str:
    paths = list(files.values())
    return str(paths[0] if len(paths) == 1 else paths[0].parent)


def _build(
    folder: str | os.PathLike,
    ids: Sequence[str],
    votes: Any,
    splits: Sequence[str],
    problems: Problems,
    name: str,
    about: str,
    images: str,
    image_dir: str | os.PathLike | None,
    extra: Mapping[str, Sequence],
    vote_columns: str | Sequence[str],
) -> datasets.Dataset:
    root = image_dir or find_path(_home(folder), *_IMAGE_FOLDERS, what="the folder of images")
    columns = {"image": [f"{one}.jpg" for one in ids], "distribution": votes, "split": splits, "key": ids, **extra}
    return build_benchmark(
        columns,
        SCORE_VALUES,
        name=name,
        source=problems.source,
        image_dir=root,
        images=images,
        column_names={"image": "image id", "key": "image id", "distribution": vote_columns},
        about=about,
        problems=problems,
    )
