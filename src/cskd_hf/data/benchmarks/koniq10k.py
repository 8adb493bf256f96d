"""KonIQ-10k: 10,073 photographs rated for technical quality by about 107 people each (Hosu et al., TIP 2020).

Ratings are a histogram over 1 to 5. The published mean opinion score is another one: votes are standardised by person
first, and the result is on 0 to 100; it ranks nearly as the histograms' means do (Pearson .995). It is the extra column
`mos`; `koniq10k-mos` makes it the label. Official split: 7,058 training, 1,000 validation and 2,015 test images.
"""

from __future__ import annotations

import os

import datasets

from ..ratings.checks import RatingsError, check_texts, parse_numbers
from ..ratings.faults import Problems
from ..ratings.tables import read_table
from .lists import listed_or_own_split
from .reading import VALIDATION_SHARE, build_benchmark, find_path, parse_votes, require_columns

SCORE_VALUES = (1.0, 2.0, 3.0, 4.0, 5.0)
MOS_VALUES = tuple(range(0, 101, 10))  # ends of the scale and steps between them, without histograms
_BINS = [f"c{value}" for value in range(1, 6)]
_SETS = {"training": "train", "train": "train", "validation": "validation", "test": "test"}
_FILES = ("koniq10k_distributions_sets.csv", "koniq10k_scores_and_distributions.csv")
_IMAGES = ("1024x768", "512x384", "koniq10k_1024x768", "koniq10k_512x384", "images", ".")


def read_koniq10k(
    folder: str | os.PathLike,
    *,
    images: str = "require",
    image_dir: str | os.PathLike | None = None,
    validation_share: float = VALIDATION_SHARE,
    test_list: str = "",
) -> datasets.Dataset:
    """KonIQ-10k with its histograms over 1 to 5.

    koniq10k_distributions_sets.csv has the official split. koniq10k_scores_and_distributions.csv has none: with it
    alone, the test images are those of a list (Q-Align's has 2,010), or 20 % by a hash of the name.

    Args:
        folder: with one of these files, and the images in 1024x768/ or 512x384/; or one of the files.
        images: what becomes of missing image files: "require", "drop" or "ignore".
        image_dir: folder of the images, where it is not one of the usual.
        validation_share: share of the training images to name "validation", where the split is not the official one.
        test_list: file with the names of the test images; makes another split than the official one.
    """
    return _read(folder, images, image_dir, validation_share, test_list, False)


def read_koniq10k_mos(
    folder: str | os.PathLike,
    *,
    images: str = "require",
    image_dir: str | os.PathLike | None = None,
    validation_share: float = VALIDATION_SHARE,
    test_list: str = "",
) -> datasets.Dataset:
    """KonIQ-10k with its mean opinion score on 0 to 100, without histograms. Arguments as of `read_koniq10k`."""
    return _read(folder, images, image_dir, validation_share, test_list, True)


def _read(folder, images, image_dir, validation_share, test_list, means) -> datasets.Dataset:
    is_file = os.path.isfile(folder)
    home = os.path.dirname(folder) or "." if is_file else folder
    names = [f"{sub}{name}" for name in _FILES for sub in ("", f"{_FILES[1].removesuffix('.csv')}/")]
    path = folder if is_file else find_path(folder, *names, what="the histograms")
    table, row_names = read_table(path)
    require_columns(table, ["image_name", *_BINS, "c_total"], path)
    problems = Problems(str(path), row_names)
    keys = check_texts(table["image_name"], problems, "image_name")
    splits, about = _splits(table, keys, problems, home, test_list, validation_share)
    # In the file with the sets, "MOS" is what the other one calls "MOS_zscore"; its own "MOS" is the histogram's mean.
    mos_name = "MOS_zscore" if "MOS_zscore" in table else "MOS"
    require_columns(table, [mos_name], path)
    mos = parse_numbers(table[mos_name], problems, mos_name).tolist()
    if means:
        labels = {"mean": mos, "n_votes": table["c_total"]}
    else:
        labels = {"distribution": parse_votes(table, _BINS, problems), "n_votes": table["c_total"], "mos": mos}
    return build_benchmark(
        {"image": keys, "key": keys, **labels, "split": splits},
        MOS_VALUES if means else SCORE_VALUES,
        name="KonIQ-10k",
        source=problems.source,
        image_dir=image_dir or find_path(home, *_IMAGES, what="the folder of images"),
        images=images,
        column_names={"key": "image_name", "distribution": _BINS, "mean": mos_name, "n_votes": "c_total"},
        about=about,
        problems=problems,
    )


def _splits(table, keys, problems, home, test_list, validation_share) -> tuple[list[str], str]:
    if "set" not in table or test_list:
        return listed_or_own_split(keys, home, test_list, "koniq10k", 0.2, validation_share)
    for row, name in enumerate(table["set"]):
        if name not in _SETS:
            problems.add(row, "set", name, f"allowed: {', '.join(_SETS)}; correct it.")
    problems.raise_if_any()
    splits = [_SETS.get(name, "unknown") for name in table["set"]]
    if "test" not in splits:
        raise RatingsError(f"{problems.source}: no row is in the set 'test'; give the whole file.")
    return splits, "The official split of KonIQ-10k."
