"""FLICKR-AES: about 40,000 photographs rated by five of 210 workers each, 1 to 5 (Ren et al., ICCV 2017).

`flickr-aes` has the published scores (weighted means of the ratings, divided by 5: 0.2 to 1) without histograms;
`flickr-aes-votes` has histograms of the workers' ratings and the published score beside them.

The paper tests on the 4,737 photographs of 37 workers and trains on the 35,263 of the other 173, but the published files
name neither those workers nor those photographs. So the split is, in this order:

- a list of test images or test workers beside the files, or named (the ArtiMuse list has the paper's 4,737 images);
- the photographs of 37/210 of the workers, drawn by a hash of their names: of the paper's kind, not the paper's own.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import datasets
import numpy as np

from ..ratings.checks import RatingsError, check_texts, parse_numbers
from ..ratings.faults import Problems
from ..ratings.tables import read_table
from ..ratings.votes import Votes, votes_of_table
from .lists import TEST_LISTS, find_names, split_by_list
from .reading import VALIDATION_SHARE, build_benchmark, carve_validation, find_path, hash_fraction

logger = logging.getLogger(__name__)

SCORE_VALUES = (1.0, 2.0, 3.0, 4.0, 5.0)
PUBLISHED_VALUES = (0.2, 0.4, 0.6, 0.8, 1.0)  # the five ratings, divided by 5
TEST_WORKERS = 37 / 210
"""Share of the workers whose photographs are the test split, as in the paper."""

_SCORES = "FLICKR-AES_image_score.txt"
_VOTES = "FLICKR-AES_image_labeled_by_each_worker.csv"
_WORKER_LISTS = ("test_workers.txt",)
_IMAGES = ("40K", "FLICKR-AES-001/40K", "FLICKR-AES-001", "images", ".")


def read_flickr_aes(
    folder: str | os.PathLike,
    *,
    images: str = "require",
    image_dir: str | os.PathLike | None = None,
    validation_share: float = VALIDATION_SHARE,
    test_list: str = "",
    test_workers: str = "",
) -> datasets.Dataset:
    """FLICKR-AES with its published scores, without histograms.

    Args:
        folder: with FLICKR-AES_image_score.txt, FLICKR-AES_image_labeled_by_each_worker.csv and 40K/.
        images: what becomes of missing image files: "require", "drop" or "ignore".
        image_dir: folder of the images, where it is not 40K/.
        validation_share: share of the training images to name "validation".
        test_list: file with the names of the test images; default test.json or test.txt in `folder`, if there.
        test_workers: file with the names of the test workers; default test_workers.txt in `folder`, if there.
    """
    return _read(folder, images, image_dir, validation_share, test_list, test_workers, False)


def read_flickr_aes_votes(
    folder: str | os.PathLike,
    *,
    images: str = "require",
    image_dir: str | os.PathLike | None = None,
    validation_share: float = VALIDATION_SHARE,
    test_list: str = "",
    test_workers: str = "",
) -> datasets.Dataset:
    """FLICKR-AES with histograms of the workers' ratings; images without votes are left out. Arguments as of
    `read_flickr_aes`."""
    return _read(folder, images, image_dir, validation_share, test_list, test_workers, True)


def read_votes(folder: str | os.PathLike) -> Votes:
    """The workers' ratings, one a row. Of a worker who rated an image twice, the last counts.

    Args:
        folder: with FLICKR-AES_image_labeled_by_each_worker.csv.
    """
    path = find_path(folder, _VOTES, f"labels/{_VOTES}", what="the workers' ratings")
    table, row_names = read_table(path)
    if len(table) != 3:
        raise RatingsError(f"{path}: it has the columns {list(table)}; allowed: three, of worker, image and score.")
    rater, image, vote = table  # the header is "worker, imagePair, score"
    columns = {"rater": rater, "image": image, "vote": vote, "key": None, "split": None}
    return votes_of_table(table, row_names, str(path), columns, repeats="last")


def _read(folder, images, image_dir, validation_share, test_list, test_workers, histograms) -> datasets.Dataset:
    path = find_path(folder, _SCORES, f"labels/{_SCORES}", what="the scores")
    keys, scores, lines = _scores(path)
    votes = read_votes(folder)
    splits, about = _splits(folder, keys, votes, test_list, test_workers)
    labels: dict[str, list] = {"mean": scores}
    rows = list(range(len(keys)))
    if histograms:
        counts = _histograms(votes, keys)
        rows = np.flatnonzero(counts.any(axis=1)).tolist()
        labels = {"distribution": list(counts), "score": scores}
        if len(rows) < len(keys):
            about += f" {len(keys) - len(rows)} images without votes are left out."
    splits = carve_validation(splits, keys, validation_share, "flickr-aes")
    columns = {"image": keys, "key": keys, **labels, "split": splits}
    return build_benchmark(
        {name: [cells[row] for row in rows] for name, cells in columns.items()},
        SCORE_VALUES if histograms else PUBLISHED_VALUES,
        name="FLICKR-AES",
        source=str(path),
        image_dir=image_dir or find_path(folder, *_IMAGES, what="the folder of images"),
        images=images,
        row_names=[lines[row] for row in rows],
        about=about,
    )


def _scores(path: Path) -> tuple[list[str], list[float], list[str]]:
    """Names, scores and places of the lines "name score"."""
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    rows = [
        (f"line {number}", *line.strip().rpartition(" ")[::2]) for number, line in enumerate(lines, 1) if line.strip()
    ]
    places, names, cells = map(list, zip(*rows)) if rows else ([], [], [])
    problems = Problems(str(path), places)
    keys = check_texts(names, problems, "name")
    scores = parse_numbers(cells, problems, "score")
    problems.raise_if_any()
    good = [row for row in range(len(keys)) if row not in problems.rows]
    return [keys[row] for row in good], [float(scores[row]) for row in good], [places[row] for row in good]


def _histograms(votes: Votes, keys: list[str]) -> np.ndarray:
    """How often each image got each rating (images, 5)."""
    problems = Problems(votes.source, votes.row_names)
    for row in np.flatnonzero(~np.isin(votes.ratings, SCORE_VALUES)):
        problems.add(
            row, votes.names["vote"], votes.ratings[row], "allowed: whole numbers from 1 to 5; correct the vote."
        )
    problems.raise_if_any()
    number = {key: row for row, key in enumerate(keys)}
    counts = np.zeros((len(keys), len(SCORE_VALUES)), dtype=np.int64)
    for row, key in enumerate(votes.keys):
        if key in number and row not in problems.rows:
            counts[number[key], int(votes.ratings[row]) - 1] += 1
    return counts


def _splits(
    folder: str | os.PathLike, keys: list[str], votes: Votes, test_list: str, test_workers: str
) -> tuple[list[str], str]:
    """ "train" or "test" of each image, and whose split it is."""
    workers, name = (None, "") if test_list else find_names(folder, test_workers, _WORKER_LISTS)
    if workers is None:
        images, name = find_names(folder, test_list, TEST_LISTS)
        if images is not None:
            return split_by_list(keys, images, name, folder), f"Test split: the {len(images)} images of {name}."
    known = dict.fromkeys(votes.raters)
    if workers is None:
        count = max(1, round(TEST_WORKERS * len(known)))
        workers = sorted(known, key=lambda worker: hash_fraction(worker, "flickr-aes workers"))[:count]
        about = (
            f"The published files do not name the paper's test workers: the test split is the images of {count} of "
            f"{len(known)} workers drawn by a hash, and figures on it compare with no paper's."
        )
        logger.warning("%s: %s", folder, about)
    else:
        if unknown := [worker for worker in workers if worker not in known]:
            raise RatingsError(
                f"'{Path(folder) / name}': {len(unknown)} of its {len(workers)} workers rated nothing, e.g. "
                f"{unknown[0]!r}; give names of the column 'worker'."
            )
        about = f"Test split: the images of the {len(workers)} workers of {name}."
    chosen = set(workers)
    test = {key for key, worker in zip(votes.keys, votes.raters) if worker in chosen}
    return ["test" if key in test else "train" for key in keys], about
