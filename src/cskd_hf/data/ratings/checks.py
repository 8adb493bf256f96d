"""The checks that labelled data passes before anything else happens to it."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .faults import Problems, RatingsError

MAX_MEAN_DISAGREEMENT = 0.02
"""Largest |stated mean - mean of the histogram|, as a share of the scale's width, that passes as rounding."""

_SHARES_TOLERANCE = 0.02


def check_score_values(score_values: Sequence[float]) -> tuple[float, ...]:
    """Return `score_values` as floats; refuse fewer than two, non-finite or not strictly increasing ones."""
    try:
        values = tuple(float(v) for v in score_values)
    except (TypeError, ValueError):
        values = ()
    if len(values) < 2 or not all(map(math.isfinite, values)) or any(a >= b for a, b in zip(values, values[1:])):
        raise RatingsError(
            f"`score_values` is {score_values!r}; allowed: at least two finite numbers in increasing order, the "
            "rating of each bin, e.g. [1, 2, 3, 4, 5]."
        )
    return values


def suggest(name: str, allowed: Iterable[str]) -> str:
    """Text to put behind an unknown name: `" (did you mean 'x'?)"`, or nothing when no name is near."""
    near = difflib.get_close_matches(str(name), [str(a) for a in allowed], n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def parse_numbers(values: Sequence, problems: Problems, column: str) -> np.ndarray:
    """Parse one column of numbers.

    Args:
        values (`Sequence`): Numbers or their text; null or blank text where there is none.
        problems (`Problems`): Receives cells that are no finite number.
        column (`str`): Name of the column, for the messages.

    Returns:
        `np.ndarray`: (rows,) float64, NaN where there is no (usable) number.
    """
    try:
        numbers = np.asarray(values, dtype=np.float64)
        if numbers.ndim == 1 and np.isfinite(numbers).all():
            return numbers
    except (TypeError, ValueError):
        pass  # some cell is empty or bad: find it below
    numbers = np.full(len(values), np.nan)
    for row, value in enumerate(values):
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        try:
            number = float(value)
        except (TypeError, ValueError):
            advice = "this is no number; write one, with a point for the decimals."
            problems.add(row, column, value, advice, "not a number")
            continue
        if math.isfinite(number):
            numbers[row] = number
        else:
            advice = "allowed: finite numbers; write the number or leave the cell empty."
            problems.add(row, column, value, advice, "not a number")
    return numbers


def parse_bins(
    table: Mapping[str, list], columns: Sequence[str], problems: Problems, *, optional: bool = False
) -> np.ndarray | list[np.ndarray | None]:
    """The votes of a table with one column a bin.

    Args:
        table: raw cells by column.
        columns: of the bins, in their order.
        problems: where empty and unreadable cells are noted.
        optional: a row may have no votes at all.

    Returns:
        (rows, bins) where every row is whole, else one array (bins,) a row, None where it has no votes or is faulty.
    """
    votes = np.stack([parse_numbers(table[column], problems, column) for column in columns], axis=1)
    empty = np.isnan(votes)
    if not empty.any():
        return votes
    noted_rows = set(problems.rows)
    missing = empty & ~empty.all(axis=1)[:, None] if optional else empty
    for row, column in np.argwhere(missing):
        if int(row) not in noted_rows:
            problems.add(
                row, columns[column], None, "the cell is empty; write 0 where nobody voted so.", "not a number"
            )
            noted_rows.add(int(row))
    return [None if bad else row for row, bad in zip(votes, empty.any(axis=1))]


def check_images(
    cells: Sequence, image_dir: str | os.PathLike | None, problems: Problems, column: str, missing: str = "require"
) -> tuple[list[str | None], list[dict[str, Any]], list[int]]:
    """Find the files of the images.

    Args:
        cells: paths, URLs, bytes or `{"path", "bytes"}` dicts.
        image_dir: that relative paths start from.
        problems: receives the missing files, with `missing="require"`.
        column: name of the column, for the messages.
        missing: what becomes of them: "require", "drop" or "ignore", see `build_ratings`.

    Returns:
        the paths as given (null for bare bytes), the cells of the image column, and, with `missing="drop"`, the rows
        whose file is missing.
    """
    names: list[str | None] = []
    images: list[dict[str, Any]] = []
    listings: dict[str, set[str]] = {}
    absent: list[int] = []
    root = os.path.abspath(image_dir if image_dir is not None else "")
    for row, cell in enumerate(cells):
        cell = cell if isinstance(cell, Mapping) else {"bytes": cell} if isinstance(cell, bytes) else {"path": cell}
        given, data = cell.get("path"), cell.get("bytes")
        names.append(os.fspath(given).strip() if isinstance(given, (str, os.PathLike)) else None)
        path = names[-1]
        if data is None and not path:
            problems.add(row, column, given, "there is no image; write its path.")
        elif data is None and not path.startswith(("http://", "https://")):
            path = os.path.join(root, path)
            if missing != "ignore" and not _is_listed(path, listings):
                if missing == "drop":
                    absent.append(row)
                else:
                    advice = (
                        f"there is no file {path}; correct the path, or pass `image_dir`, the folder it starts from."
                    )
                    problems.add(row, column, given, advice, "missing image")
        images.append({"path": path, "bytes": data})
    return names, images, absent


def _is_listed(path: str, listings: dict[str, set[str]]) -> bool:
    folder, file_name = os.path.split(path)
    if folder not in listings:
        listings[folder] = _list_files(folder)
    return file_name in listings[folder]


def _list_files(folder: str) -> set[str]:
    """One listing a folder: asking for each of a million files would take minutes on a network drive."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if not entry.is_dir()}
    except OSError:
        return set()


def check_texts(cells: Sequence, problems: Problems, column: str) -> list[str | None]:
    """Return the cells as text; note empty ones."""
    texts = [None if cell is None else str(cell).strip() for cell in cells]
    for row, text in enumerate(texts):
        if not text:
            problems.add(row, column, text, f"it is empty; write a name in the column '{column}'.")
    return texts


def check_keys(keys: Sequence[str | None], splits: Sequence[str | None], problems: Problems, column: str) -> None:
    """Note keys that stand twice, and say so where it leaks an image from one split into another."""
    seen: dict[str, int] = {}
    for row, key in enumerate(keys):
        if not key:
            continue
        first = seen.setdefault(key, row)
        if splits[first] != splits[row]:
            where = problems.place(first)
            advice = (
                f"the splits {splits[first]!r} and {splits[row]!r} share this key, first in {where}; keep each image in "
                "one split."
            )
            problems.add(row, column, key, advice, "shared between splits")
        elif first != row:
            where = problems.place(first)
            advice = (
                f"another row has this key, {where}; keep one row an image, or give each its own key; where each row is "
                "one vote, say so with columns={'vote': <its name>}."
            )
            problems.add(row, column, key, advice, "duplicated key")


def check_attributes(
    columns: Mapping[str, Sequence],
    attributes: Mapping[str, Sequence[float]],
    reserved: Iterable[str],
    problems: Problems,
) -> tuple[dict[str, tuple[float, float]], dict[str, list[float | None]]]:
    """Return the scale of each attribute and its column as floats, null where unknown; note ratings off the scale.

    Raises:
        RatingsError: a scale is none, or there is no such column.
    """
    scales, ratings, reserved = {}, {}, set(reserved)
    for name, scale in attributes.items():
        if name in reserved or name not in columns:
            raise RatingsError(
                f"{problems.source}: `attributes` names {name!r}{suggest(name, set(columns) - reserved)}; allowed: the "
                f"columns {sorted(set(columns) - reserved)}."
            )
        bounds = check_score_values(scale)
        if len(bounds) != 2:
            raise RatingsError(f"{problems.source}: the scale of {name!r} is {scale!r}; allowed: (lowest, highest).")
        scales[name] = (low, high) = bounds
        numbers = parse_numbers(columns[name], problems, name)
        for row in np.flatnonzero((numbers < low) | (numbers > high)):
            problems.add(row, name, numbers[row], f"outside the scale {low:g} to {high:g}; correct or empty the cell.")
        ratings[name] = [None if np.isnan(value) else float(value) for value in numbers]
    return scales, ratings


def check_labels(
    columns: Mapping[str, Sequence],
    n_rows: int,
    score_values: tuple[float, ...],
    problems: Problems,
    known_as: Mapping[str, str | Sequence[str]],
) -> tuple[list[np.ndarray | None], dict[str, list[float | int | None]]]:
    """Return the shares of the votes, and the columns mean, std and n_votes, null where unknown."""
    stated = {}
    for column in ("mean", "std", "n_votes"):
        values = columns.get(column)
        stated[column] = (
            np.full(n_rows, np.nan) if values is None else parse_numbers(values, problems, known_as[column])
        )
    for column, bad in (
        ("std", stated["std"] < 0),
        ("n_votes", (stated["n_votes"] < 1) | (stated["n_votes"] % 1 > 0)),
    ):
        allowed = "numbers from 0" if column == "std" else "whole numbers from 1"
        for row in np.flatnonzero(bad):
            problems.add(row, known_as[column], stated[column][row], f"allowed: {allowed}; correct or empty the cell.")

    votes, has_votes = _check_votes(
        columns.get("distribution"), n_rows, score_values, problems, known_as["distribution"]
    )
    values = np.asarray(score_values)
    totals = np.where(has_votes, votes.sum(axis=1), 1.0)
    shares = votes / totals[:, None]  # (rows, bins)
    mean = shares @ values
    std = np.sqrt((shares * (values - mean[:, None]) ** 2).sum(axis=1))
    are_counts = not (votes % 1).any()

    width = values[-1] - values[0]
    for row in np.flatnonzero(has_votes & (np.abs(stated["mean"] - mean) > MAX_MEAN_DISAGREEMENT * width)):
        advice = f"the votes of this row have mean {mean[row]:.4f}; correct one, or leave the mean column out."
        problems.add(row, known_as["mean"], stated["mean"][row], advice)
    if are_counts:
        for row in np.flatnonzero(has_votes & (stated["n_votes"] != totals) & ~np.isnan(stated["n_votes"])):
            problems.add(
                row, known_as["n_votes"], stated["n_votes"][row], f"the votes sum to {totals[row]:g}; correct one."
            )
    outside = ~has_votes & ((stated["mean"] < values[0]) | (stated["mean"] > values[-1]))
    for row in np.flatnonzero(outside):
        advice = f"outside the scale {values[0]:g} to {values[-1]:g}; correct it, or the `score_values`."
        problems.add(row, known_as["mean"], stated["mean"][row], advice)
    for row in np.flatnonzero(~has_votes & np.isnan(stated["mean"])):
        if int(row) not in problems.rows:  # a cell that could not be parsed is not also missing
            problems.add(row, known_as["mean"], None, "neither a mean nor votes; give one of them, or drop the row.")

    n_votes = np.where(has_votes & are_counts, totals, stated["n_votes"])
    labels = {
        "mean": [float(v) for v in np.where(has_votes, mean, stated["mean"])],
        "std": [None if np.isnan(v) else float(v) for v in np.where(has_votes, std, stated["std"])],
        "n_votes": [None if np.isnan(v) else int(v) for v in n_votes],
    }
    return [share if known else None for share, known in zip(shares, has_votes)], labels


def _check_votes(
    cells: Sequence | None,
    n_rows: int,
    score_values: tuple[float, ...],
    problems: Problems,
    column: str | Sequence[str],
) -> tuple[np.ndarray, np.ndarray]:
    """Return the votes (rows, bins), zero where unknown, and which rows have usable ones (rows,)."""
    n_bins = len(score_values)
    votes, has_votes = np.zeros((n_rows, n_bins)), np.zeros(n_rows, dtype=bool)
    whole = column if isinstance(column, str) else f"{column[0]}..{column[-1]}"
    if cells is None:
        return votes, has_votes
    unclear = range(n_rows)
    if (table := _as_table(cells, n_bins)) is not None:  # one look at all; a loop over 255,000 rows takes seconds
        has_votes = (np.isfinite(table) & (table >= 0)).all(axis=1) & table.any(axis=1)
        votes[has_votes] = table[has_votes]
        unclear = np.flatnonzero(~has_votes).tolist()
    for row in unclear:
        if (cell := cells[row]) is None:
            continue
        try:
            histogram = np.asarray(cell, dtype=np.float64)
        except (TypeError, ValueError):
            problems.add(row, whole, cell, "allowed: a list of numbers, one a bin.", "not a number")
            continue
        if histogram.shape != (n_bins,):
            given = len(histogram) if histogram.ndim == 1 else f"shape {histogram.shape}"
            advice = f"it has {given} bins, allowed: {n_bins}, the score_values {list(score_values)}; correct either."
            problems.add(row, whole, cell, advice, "wrong bin count")
            continue
        bad = np.flatnonzero(~(histogram >= 0) | np.isinf(histogram))
        for index in bad:
            name = whole if isinstance(column, str) else column[index]
            value = None if np.isnan(histogram[index]) else histogram[index]
            kind = "negative votes" if histogram[index] < 0 else "not a number"
            advice = "allowed: finite vote counts or shares from 0; correct the row or drop it."
            problems.add(row, name, value, advice, kind)
        if not bad.size and not histogram.any():
            problems.add(
                row, whole, cell, "there are no votes; drop the row, or leave the votes empty and give a mean."
            )
        elif not bad.size:
            votes[row], has_votes[row] = histogram, True
    if (votes % 1).any():
        sums = votes.sum(axis=1)
        for row in np.flatnonzero(has_votes & (np.abs(sums - 1) > _SHARES_TOLERANCE)):
            advice = f"it sums to {sums[row]:.4g}; allowed: whole vote counts in all rows, or shares that sum to 1."
            problems.add(row, whole, votes[row].tolist(), advice)
    return votes, has_votes


def _as_table(cells: Sequence, n_bins: int) -> np.ndarray | None:
    """The cells as float64 (rows, bins), or none where they are not all lists of as many numbers."""
    try:
        table = np.asarray(cells, dtype=np.float64)
    except (TypeError, ValueError):
        return None
    return table if table.shape == (len(cells), n_bins) else None
