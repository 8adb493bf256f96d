"""Which ratings a model learns from and which it is measured on: folds and hold-outs that no picture is in two parts of."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import datasets
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..data.fingerprints import take_fingerprints
from ..data.leak_guard import same_pictures
from ..data.ratings.checks import RatingsError, suggest
from ..data.sources import DatasetSource
from .settings import MAX_CROSS_VALIDATED

logger = logging.getLogger(__name__)

TEST_SPLIT = "test"


@dataclass(frozen=True)
class Fold:
    """Row numbers that a model is fitted on, and those that it is measured on."""

    train: np.ndarray
    held_out: np.ndarray


@dataclass(frozen=True)
class Plan:
    """How the estimate is made.

    Attributes:
        kind: "cross-validation", "hold-out", or "test split", where the file has one.
        folds: of a cross-validation, every row is held out once; of the others there is one.
        final: rows that the shipped model is fitted on.
        left_out: rows that are copies of test images, and are neither trained on nor measured on.
    """

    kind: str
    folds: list[Fold]
    final: np.ndarray
    left_out: np.ndarray

    @property
    def held_out(self) -> np.ndarray:
        """All rows that are measured on, rising."""
        return np.sort(np.concatenate([fold.held_out for fold in self.folds]))


def picture_groups(ratings: datasets.Dataset, *, quiet: bool = True) -> np.ndarray:
    """A number for each row, equal for rows that show the same picture: equal bytes, resized, compressed or mirrored.

    Args:
        ratings: rated set.
        quiet: no progress bar.
    """
    prints = take_fingerprints(DatasetSource(ratings), quiet=quiet, description="looking for copies")
    return same_pictures(prints)


def joined_groups(groups: np.ndarray, ratings: datasets.Dataset, column: str) -> np.ndarray:
    """Groups that are as large as needed for neither a picture nor a value of a column to be in two of them.

    Args:
        groups: of `picture_groups`.
        ratings: rated set.
        column: of it; rows without a value join nothing.

    Raises:
        RatingsError: there is no such column.
    """
    if column not in ratings.column_names:
        raise RatingsError(
            f"there is no column {column!r}{suggest(column, ratings.column_names)} to group by; the ratings have "
            f"{', '.join(ratings.column_names)}."
        )
    values: dict[str, int] = {}
    pairs = [
        (row, values.setdefault(str(value), row))
        for row, value in enumerate(ratings[column][:])
        if value is not None and str(value)
    ]
    same = np.unique(groups, return_index=True)[1]  # first row of each group
    links = np.concatenate([np.array(pairs, dtype=np.int64).reshape(-1, 2), np.stack([np.arange(len(groups)), same[np.unique(groups, return_inverse=True)[1]]], axis=1)])  # fmt: skip
    graph = coo_array((np.ones(len(links)), (links[:, 0], links[:, 1])), shape=(len(groups),) * 2)
    return connected_components(graph, directed=False)[1].astype(np.int64)


def make_plan(ratings: datasets.Dataset, groups: np.ndarray, *, folds: int, holdout: float, seed: int) -> Plan:
    """Folds of few ratings, a hold-out of many, or the test split of the file.

    A test split is left to be a test: the shipped model is not fitted on it. With folds or a drawn hold-out, it is
    fitted on everything.

    Args:
        ratings: rated set.
        groups: of `picture_groups`; rows of one group are never on two sides.
        folds: 1 asks for a single hold-out.
        holdout: share of a single hold-out.
        seed: of the draw.
    """
    rows = np.arange(len(ratings))
    splits = np.asarray(ratings["split"][:])
    if (splits == TEST_SPLIT).any() and (splits != TEST_SPLIT).any():
        test = rows[splits == TEST_SPLIT]
        rest = rows[splits != TEST_SPLIT]
        copies = np.isin(groups[rest], groups[test])
        return Plan("test split", [Fold(rest[~copies], test)], rest[~copies], rest[copies])
    means = np.asarray(ratings["mean"][:])
    if folds == 1 or len(rows) > MAX_CROSS_VALIDATED:
        parts = deal_rows(means, groups, max(round(1 / holdout), 2), seed)
        return Plan("hold-out", [Fold(rows[parts > 0], rows[parts == 0])], rows, rows[:0])
    parts = deal_rows(means, groups, folds, seed)
    made = [Fold(rows[parts != part], rows[parts == part]) for part in range(parts.max() + 1)]
    return Plan("cross-validation", made, rows, rows[:0])


def deal_rows(means: np.ndarray, groups: np.ndarray, parts: int, seed: int) -> np.ndarray:
    """Deal rows into parts of like size and like ratings, group by group.

    Every part gets its share of low and of high ratings. Otherwise the mean of a training set would be low where that of
    its held-out part is high, and pooled over folds even a model that knows nothing would rank below chance.

    Args:
        means: (rows,) mean ratings.
        groups: (rows,) numbers of pictures.
        parts: as many as there are groups, at most.
        seed: of the draw.

    Returns:
        (rows,) part of each row, from 0.
    """
    names, inverse = np.unique(groups, return_inverse=True)
    parts = min(parts, len(names))
    sizes = np.bincount(inverse)
    rng = np.random.default_rng(seed)
    order = np.lexsort((rng.permutation(len(names)), np.bincount(inverse, means) / sizes))
    part_of = np.empty(len(names), dtype=np.int64)
    filled = np.zeros(parts)
    for first in range(0, len(names), parts):
        block = order[first : first + parts]
        # Big groups go where there is most room; ties by chance.
        room = np.lexsort((rng.permutation(parts), filled))[: len(block)]
        chosen = block[np.lexsort((rng.permutation(len(block)), -sizes[block]))]
        part_of[chosen] = room
        filled[room] += sizes[chosen]
    return part_of[inverse]
