"""Ratings with one row a vote: who rated which image how, and the rated set that they add up to.

votes = load_votes("votes.csv")  # image, rater, rating
votes.by_rater()["anna"]  # {"a.jpg": 4.0, ...}
ratings = load_ratings("votes.csv", score_values=[1, 2, 3, 4, 5])  # a histogram an image
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .checks import Problems, RatingsError, check_score_values, check_texts, parse_numbers, suggest
from .columns import COLUMN_NAMES, raise_missing
from .faults import UnknownScaleError
from .tables import read_table

VOTE_NAMES = ("rating", "vote", "stars")
"""Names of a column that holds one vote, where the keys repeat. `score` and `mean` may be means: they are declared."""

RATER_NAMES = (
    "rater", "rater_id", "user", "user_id", "userid", "worker", "worker_id", "annotator", "annotator_id", "subject",
)  # fmt: skip
"""Names of the column that says whose vote it is; with it, `score` is known to be a vote too."""

_MEAN_NAMES = ("score", "mean", "mos")
_OF_MANY = ("std", "n_votes")
REPEATS = ("refuse", "last")


@dataclass
class Votes:
    """Votes, one an entry.

    Attributes:
        keys: of the images, the `key` of the rated set.
        raters: whose vote it is; empty where the file does not say.
        ratings: (votes,) float64.
        images: the image cells, one a vote.
        columns: the other columns, one cell a vote.
        source: name of the file or data set.
        row_names: where each vote stands in it.
        names: what the file calls `image`, `key`, `vote` and `rater`.
    """

    keys: list[str]
    raters: list[str]
    ratings: np.ndarray
    images: list[Any]
    columns: dict[str, list] = field(default_factory=dict)
    source: str = "votes"
    row_names: list[str] | None = None
    names: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    def select(self, rows: Sequence[int]) -> Votes:
        """The votes of these rows, in this order."""
        return Votes(
            [self.keys[row] for row in rows],
            [self.raters[row] for row in rows] if self.raters else [],
            self.ratings[list(rows)],
            [self.images[row] for row in rows],
            {name: [cells[row] for row in rows] for name, cells in self.columns.items()},
            self.source,
            None if self.row_names is None else [self.row_names[row] for row in rows],
            self.names,
        )

    def by_rater(self) -> dict[str, dict[str, float]]:
        """`{rater: {key: rating}}`, raters in the order in which they first appear.

        Raises:
            RatingsError: the votes do not say whose they are.
        """
        if not self.raters:
            raise RatingsError(
                f"{self.source}: there is no column of raters; name it one of {' | '.join(RATER_NAMES)}, or pass "
                "columns={'rater': <its name>}."
            )
        ratings: dict[str, dict[str, float]] = {}
        for key, rater, rating in zip(self.keys, self.raters, self.ratings.tolist()):
            ratings.setdefault(rater, {})[key] = rating
        return ratings


def load_votes(
    path: str | os.PathLike,
    *,
    columns: Mapping[str, Any] | None = None,
    split: str | None = None,
    repeats: str = "refuse",
) -> Votes:
    """Read a file with one row a vote.

    Args:
        path (`str` or `Path`): A .csv, .tsv, .jsonl or .parquet file.
        columns (`Mapping`, *optional*): Names in this file of `image`, `key`, `vote`, `rater` and `split`, where they
            are not found by name.
        split (`str`, *optional*): Only the votes of this split.
        repeats (`str`): A rater who rated an image twice: `"refuse"` the file, or keep the `"last"` vote.

    Returns:
        `Votes`: In the order of the file.

    Raises:
        RatingsError: The data cannot be used; names the file, row, column, value, and what is allowed.
    """
    table, row_names = read_table(path)
    votes = votes_of_table(table, row_names, str(path), columns or {}, repeats)
    if split is None:
        return votes
    splits = votes.columns.get("split", ["train"] * len(votes))
    rows = [row for row, name in enumerate(splits) if name == split]
    if not rows:
        allowed = sorted(set(map(str, splits)))
        raise RatingsError(f"{path}: there is no split {split!r}{suggest(split, allowed)}; allowed: {allowed}.")
    return votes.select(rows)


def holds_votes(table: Mapping[str, list], source: str, columns: Mapping[str, Any]) -> bool:
    """Whether a table has one row a vote: declared by `columns`, or seen by its columns and repeated images.

    Raises:
        RatingsError: images repeat, but whether the rows are votes is not clear.
    """
    if any(columns.get(name) is not None for name in ("vote", "rater")):
        return True
    if any(name in columns for name in ("mean", "distribution", "vote")):
        return False
    own = {name.lower(): name for name in table}
    images = next(
        (found for name in ("key", "image") if (found := columns.get(name) or _first(own, _known(name)))), None
    )
    vote, rater = _first(own, VOTE_NAMES), _first(own, RATER_NAMES)
    means = [own[name] for name in _MEAN_NAMES if name in own]
    of_many = [own[name] for name in _OF_MANY if name in own]
    if images not in table or (vote is None and not means):
        return False
    cells = [_key_of(cell) for cell in table[images]]
    repeat = len(set(cells)) < len(cells)
    if of_many or (vote and means):
        if repeat and (vote or rater):
            reasons = [name for name in (vote, rater) if name]
            raise RatingsError(
                f"{source}: images repeat, so each row may be a vote ({reasons}), but {of_many + means} tell of many "
                f"votes; say which with columns={{'vote': {(vote or means[0])!r}}} or columns={{'mean': "
                f"{(means or [vote])[0]!r}}}."
            )
        return False
    if rater is not None:
        return repeat or vote is not None
    return repeat and vote is not None


def votes_of_table(
    table: Mapping[str, list],
    row_names: list[str],
    source: str,
    columns: Mapping[str, Any],
    repeats: str = "refuse",
) -> Votes:
    """The votes of a table of raw cells; see `load_votes`."""
    if repeats not in REPEATS:
        raise RatingsError(f"repeats is {repeats!r}; allowed: {', '.join(REPEATS)}.")
    names = {
        name: found
        for name in ("image", "key", "vote", "rater", "split")
        if (found := _find(table, source, name, columns))
    }
    for name in ("image", "vote"):
        if name not in names:
            raise_missing(source, name, _known(name), table)
    problems = Problems(source, row_names)
    images = table[names["image"]]
    key_name = names.get("key", names["image"])
    keys = check_texts([_key_of(cell) for cell in table[key_name]], problems, key_name)
    raters = check_texts(table[names["rater"]], problems, names["rater"]) if "rater" in names else []
    ratings = parse_numbers(table[names["vote"]], problems, names["vote"])
    for row in np.flatnonzero(np.isnan(ratings)):
        if int(row) not in problems.rows:  # a cell that could not be parsed is not also missing
            problems.add(int(row), names["vote"], None, "there is no vote; write it, or drop the row.")
    problems.raise_if_any()
    used = {names[name] for name in ("image", "key", "vote", "rater") if name in names}
    rest = {("split" if name == names.get("split") else name): table[name] for name in table if name not in used}
    votes = Votes(keys, raters, ratings, list(images), rest, source, row_names, names)
    return _without_repeats(_without(votes, problems.rows), repeats)


def _without(votes: Votes, faulty: set[int]) -> Votes:
    """What is left where faults are collected instead of refused."""
    return votes.select([row for row in range(len(votes)) if row not in faulty]) if faulty else votes


def _without_repeats(votes: Votes, repeats: str) -> Votes:
    if not votes.raters:
        return votes
    problems, last = Problems(votes.source, votes.row_names), {}
    for row, pair in enumerate(zip(votes.raters, votes.keys)):
        if pair in last and repeats == "refuse":
            advice = f"the rater {pair[0]!r} rated this image before; keep one of the votes, or pass repeats='last'."
            problems.add(
                row, votes.names.get("key", votes.names.get("image", "image")), pair[1], advice, "duplicated key"
            )
        last[pair] = row
    problems.raise_if_any()
    return votes if len(last) == len(votes) else votes.select(sorted(last.values()))


def add_up(
    votes: Votes, score_values: Sequence[float] | None, attributes: Iterable[str] = ()
) -> tuple[dict[str, list], list[str] | None]:
    """One row an image: the columns for `build_ratings`, and where the first vote for each image stands.

    Where each vote is one of `score_values`, they become a histogram. Two `score_values` may also be the ends of a
    scale without steps (a slider): then mean, std and number of votes are kept. The votes for each of the columns
    `attributes` are averaged. Other columns are kept where all votes for an image agree.

    Raises:
        RatingsError: no `score_values`, a vote that is none of them, an image in two splits.
    """
    bins, problems = _bins(votes, score_values)
    _check_splits(votes, problems)
    problems.raise_if_any()
    if problems.rows:
        kept = [row for row in range(len(votes)) if row not in problems.rows]
        votes, bins = votes.select(kept), None if bins is None else bins[kept]
    first: dict[str, int] = {}
    rows = np.array([first.setdefault(key, len(first)) for key in votes.keys])  # (votes,) image of each vote
    starts = np.unique(rows, return_index=True)[1]  # (images,) row of the first vote
    columns: dict[str, list] = {"image": [votes.images[row] for row in starts], "key": list(first)}
    if bins is not None:
        histograms = np.zeros((len(first), len(score_values)), dtype=np.int64)
        np.add.at(histograms, (rows, bins), 1)
        columns["distribution"] = histograms.tolist()
    else:
        means = _mean(votes.ratings, rows)
        spread = np.sqrt(_mean((votes.ratings - means[rows]) ** 2, rows))
        columns |= {"mean": means.tolist(), "std": spread.tolist(), "n_votes": np.bincount(rows).tolist()}
    for name, cells in votes.columns.items():
        if name in attributes:
            means = _mean(parse_numbers(cells, problems, name), rows)
            columns[name] = [None if np.isnan(value) else value for value in means.tolist()]
        elif all(cells[row] == cells[starts[image]] for row, image in enumerate(rows)):
            columns[name] = [cells[row] for row in starts]
    problems.raise_if_any()
    return columns, None if votes.row_names is None else [votes.row_names[row] for row in starts]


def _mean(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Mean of each image's values (images,), those that are NaN left out; NaN where there are none."""
    given = ~np.isnan(values)
    n_images = rows.max() + 1
    with np.errstate(invalid="ignore"):
        return np.bincount(rows[given], values[given], n_images) / np.bincount(rows[given], minlength=n_images)


def _bins(votes: Votes, score_values: Sequence[float] | None) -> tuple[np.ndarray | None, Problems]:
    """The bin of each vote (votes,), none on a scale without steps; and the votes that are outside."""
    if score_values is None:
        found = np.unique(votes.ratings)
        shown = [float(value) for value in found[:10]]
        raise UnknownScaleError(
            f"{votes.source}: which votes were allowed is unknown; pass `score_values`, all of them in increasing order "
            f"(or the two ends of a scale without steps). The file has {shown}{'...' if len(found) > 10 else ''}.",
            (float(found[0]), float(found[-1])),
        )
    problems = Problems(votes.source, votes.row_names)
    values = np.asarray(check_score_values(score_values))
    bins = np.abs(votes.ratings[:, None] - values).argmin(axis=1)
    off = np.abs(votes.ratings - values[bins]) > 1e-6
    if not off.any():
        return bins, problems
    is_slider = len(values) == 2
    allowed = f"{values[0]:g} to {values[-1]:g}" if is_slider else str(values.tolist())
    bad = (votes.ratings < values[0]) | (votes.ratings > values[-1]) if is_slider else off
    for row in np.flatnonzero(bad):
        advice = f"allowed: {allowed}; correct the vote, or the `score_values`."
        problems.add(int(row), votes.names.get("vote", "vote"), votes.ratings[row], advice)
    return None if is_slider else bins, problems


def _check_splits(votes: Votes, problems: Problems) -> None:
    first: dict[str, Any] = {}
    for row, (key, split) in enumerate(zip(votes.keys, votes.columns.get("split", ()))):
        if first.setdefault(key, split) != split:
            advice = f"other votes for {key!r} are in {first[key]!r}; keep each image in one split."
            problems.add(row, votes.names.get("split", "split"), split, advice, "shared between splits")


def _known(name: str) -> tuple[str, ...]:
    if name == "vote":
        return (*VOTE_NAMES, *_MEAN_NAMES)
    return RATER_NAMES if name == "rater" else COLUMN_NAMES[name]


def _find(table: Mapping[str, list], source: str, name: str, columns: Mapping[str, Any]) -> str | None:
    """The table's name of a column; None where there is none, or `columns` leaves it out."""
    if name in columns:
        own = columns[name]
        if own is not None and own not in table:
            raise RatingsError(
                f"{source}: there is no column {own!r}{suggest(own, table)} for the {name!r}; the file has {list(table)}."
            )
        return own
    present = [own for own in table if own.lower() in _known(name)]
    if len(present) > 1:
        raise RatingsError(
            f"{source}: the columns {present} all may be the {name!r}; choose one with columns={{{name!r}: {present[0]!r}}}."
        )
    return present[0] if present else None


def _first(own: Mapping[str, str], known: Sequence[str]) -> str | None:
    return next((own[name] for name in known if name in own), None)


def _key_of(cell: Any) -> Any:
    return cell.get("path") if isinstance(cell, Mapping) else cell
