"""Labelled data: read it from a file, in the one schema that `ratings_schema` describes.

ratings = load_ratings("ratings.csv")
train = select_split(ratings, "train")
few = rated_subset(train, n=100, seed=0)
"""

from __future__ import annotations

import csv
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc

from .ratings_checks import (
    Problems,
    RatingsError,
    check_images,
    check_score_values,
    parse_numbers,
    suggest,
)
from .ratings_faults import UnknownScaleError
from .ratings_schema import (
    SCHEMA_COLUMNS,
    attributes_of,
    build_ratings,
    has_score_values,
    rated_subset,
    score_values_of,
    select_split,
)
from .votes import add_up, holds_votes, votes_of_table

__all__ = [
    "RatingsError",
    "attributes_of",
    "build_ratings",
    "load_ratings",
    "rated_subset",
    "score_values_of",
    "select_split",
]

COLUMN_NAMES = {
    "image": ("image", "path", "file", "file_name", "image_name", "filename"),
    "distribution": ("distribution", "histogram", "votes", "counts"),
    "mean": ("mean", "score", "mos", "rating"),
    "std": ("std",),
    "n_votes": ("n_votes",),
    "split": ("split",),
    "key": ("key",),
}
"""The names under which each column of the schema is found, in any letter case."""

_NUMBER = r"(-?\d+(?:\.\d+)?)"
_NUMBERED = re.compile(rf"(votes_|score_|c){_NUMBER}", re.IGNORECASE)
_WHOLE = re.compile(r"-?(0|[1-9]\d*)")
_FORMATS = ".csv, .tsv, .jsonl, .parquet, or a folder written by save_to_disk"


def load_ratings(
    path: str | os.PathLike,
    *,
    image_dir: str | os.PathLike | None = None,
    score_values: Sequence[float] | None = None,
    columns: Mapping[str, Any] | None = None,
    split: str | None = None,
    attributes: Mapping[str, Sequence[float]] | None = None,
) -> datasets.Dataset:
    """Read labelled data of any common layout into the one schema.

    Columns are found by name (`COLUMN_NAMES`). The votes are one list column, or one numbered column a bin
    (`votes_1`..., `c1`..., `score_1`...), whose suffix is the rating of the bin: `votes_1.5` counts the votes for 1.5.
    Whole numbers are vote counts; other numbers are shares that sum to 1. Mean, std and number of votes are computed
    from the votes where there are any. Columns of no known name are kept as extra columns.

    A file may also have one row a vote: `columns` names the vote or the rater, or images repeat and there is a column
    `rating` (or `score`, beside one of raters); see `votes`. The votes for each image are added up.

    Args:
        path (`str` or `Path`): A .csv, .tsv, .jsonl or .parquet file, or a folder written by `save_to_disk`.
        image_dir (`str` or `Path`, *optional*): Folder that relative image paths start from; default the folder of
            the file.
        score_values (`Sequence[float]`, *optional*): The rating each bin stands for, increasing. Needed unless the
            columns are numbered: a file of means says nothing about the ends of its scale.
        columns (`Mapping`, *optional*): Names in this file of the columns of the schema, e.g. `{"mean": "my_score"}`;
            `None` leaves a column out. For `distribution` also a list of columns, one a bin, or a pattern such as
            `"aestheticScore_*"` for numbered columns.
        split (`str`, *optional*): Return only this split. A file without a split column is all `"train"`.
        attributes (`Mapping`, *optional*): Columns that hold mean ratings of attributes, with the ends of their scales,
            e.g. `{"color": (1, 5)}`.

    Returns:
        `datasets.Dataset`: The rated set; see `ratings_schema` for its columns.

    Raises:
        RatingsError: The data cannot be used; names the file, row, column, value, and what is allowed.
    """
    path = Path(path)
    if path.is_dir():
        ds = _load_folder(path, image_dir, score_values, columns, attributes)
    else:
        table, row_names = read_table(path)
        root = path.parent if image_dir is None else image_dir
        ds = _from_table(table, row_names, str(path), path.stem, root, score_values, columns or {}, attributes)
    return ds if split is None else select_split(ds, split)


def _load_folder(
    path: Path,
    image_dir: str | os.PathLike | None,
    score_values: Sequence[float] | None,
    columns: Mapping[str, Any] | None,
    attributes: Mapping[str, Sequence[float]] | None,
) -> datasets.Dataset:
    try:
        ds = datasets.load_from_disk(str(path))
    except FileNotFoundError as error:
        raise RatingsError(
            f"{path}: it is a folder not written by save_to_disk; allowed: {_FORMATS}; a data set of the field is named "
            "with its folder, e.g. ava:DIR."
        ) from error
    if isinstance(ds, datasets.DatasetDict):
        if not all("split" in part.column_names for part in ds.values()):
            ds = {name: part.add_column("split", [name] * len(part)) for name, part in ds.items()}
        ds = datasets.concatenate_datasets(list(ds.values()))
    if has_score_values(ds) and not columns and not attributes:
        own = score_values_of(ds)
        if score_values is not None and check_score_values(score_values) != own:
            raise RatingsError(f"{path}: `score_values` is {list(score_values)}, the set was saved with {list(own)}.")
        if missing := [name for name in SCHEMA_COLUMNS if name not in ds.column_names]:
            raise RatingsError(f"{path}: the columns {missing} are missing; save the rated set with all its columns.")
        problems = Problems(str(path))
        cells = ds.select_columns("image").with_format("arrow")[:]["image"]  # not as Python: it may be all the bytes
        paths, without_bytes = pc.struct_field(cells, "path"), pc.is_null(pc.struct_field(cells, "bytes"))
        check_images(pc.filter(paths, without_bytes).to_pylist(), image_dir, problems, "image")
        problems.raise_if_any()
        return ds
    for name, feature in ds.features.items():
        if isinstance(feature, datasets.Image):
            ds = ds.cast_column(name, datasets.Image(decode=False))
    row_names = [f"row {row + 1}" for row in range(len(ds))]
    if has_score_values(ds) and score_values is None:
        score_values = score_values_of(ds)
    attributes = attributes_of(ds) | dict(attributes or {})
    table = ds.to_dict()
    return _from_table(table, row_names, str(path), path.name, image_dir, score_values, columns or {}, attributes)


def read_table(path: Path) -> tuple[dict[str, list], list[str]]:
    """Read a file to columns of raw cells, and the place of each row in the file ("line 7")."""
    if not path.exists():
        raise RatingsError(f"{path}: there is no such file; give one of: {_FORMATS}.")
    kind = path.suffix.lower()
    try:
        if kind in (".csv", ".tsv"):
            return _read_csv(path, "," if kind == ".csv" else "\t")
        if kind == ".jsonl":
            return _read_jsonl(path)
        if kind == ".parquet":
            import pyarrow.parquet  # only this format needs it

            table = pyarrow.parquet.read_table(path)
            return table.to_pydict(), [f"row {row + 1}" for row in range(table.num_rows)]
    except UnicodeDecodeError as error:
        raise RatingsError(f"{path}: it is not UTF-8 text ({error}); save it as UTF-8.") from error
    except (csv.Error, OSError, ValueError) as error:
        if isinstance(error, RatingsError):
            raise
        raise RatingsError(f"{path}: it cannot be read as {kind} ({error}).") from error
    raise RatingsError(f"{path}: unknown kind of file {kind!r}; allowed: {_FORMATS}.")


def _read_csv(path: Path, delimiter: str) -> tuple[dict[str, list], list[str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter)
        header = [name.strip() for name in next(reader, [])]
        if repeated := sorted({name for name in header if header.count(name) > 1}):
            raise RatingsError(f"{path}: line 1: the columns {repeated} appear more than once; rename all but one.")
        row_names: list[str] = []
        problems, rows = Problems(str(path), row_names), []
        line = reader.line_num + 1
        for row in reader:
            if row:
                row_names.append(f"line {line}")
                if len(row) != len(header):
                    advice = (
                        f"the row has {len(row)} cells, allowed: {len(header)}, as in line 1; quote text with commas."
                    )
                    problems.add(len(row_names) - 1, header[0] if header else "", row[0], advice)
                    if problems.collected is not None:
                        row_names.pop()
                        continue
                rows.append(row)
            line = reader.line_num + 1  # a quoted cell may span lines
    problems.raise_if_any()
    cells = [[cell.strip() or None for cell in row] for row in rows]
    return {name: [row[i] for row in cells] for i, name in enumerate(header)}, row_names


def _read_jsonl(path: Path) -> tuple[dict[str, list], list[str]]:
    rows, row_names = [], []
    with path.open(encoding="utf-8-sig") as file:
        for line, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except json.JSONDecodeError as error:
                raise RatingsError(f"{path}: line {line} is not JSON ({error}); write one object a line.") from error
            if not isinstance(row, dict):
                raise RatingsError(f"{path}: line {line} is a {type(row).__name__}; write one object {{...}} a line.")
            rows.append(row)
            row_names.append(f"line {line}")
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}, row_names


def _from_table(
    table: dict[str, list],
    row_names: list[str],
    source: str,
    name: str,
    image_dir: str | os.PathLike | None,
    score_values: Sequence[float] | None,
    mapping: Mapping[str, Any],
    attributes: Mapping[str, Sequence[float]] | None = None,
) -> datasets.Dataset:
    """Find the columns of the schema in `table` and build the rated set."""
    if holds_votes(table, source, mapping):
        return _from_votes(table, row_names, source, name, image_dir, score_values, mapping)
    found = _find_columns(table, source, mapping)
    bins = found.pop("distribution", None)
    data = {column: table[own] for column, own in found.items()}
    problems = Problems(source, row_names)
    if isinstance(bins, dict):
        own_values = check_score_values(sorted(bins)) if score_values is None else check_score_values(score_values)
        if set(own_values) != set(bins):
            raise RatingsError(
                f"{source}: `score_values` is {list(own_values)}, but the numbered columns "
                f"{list(bins.values())} stand for {sorted(bins)}; leave it out, or list the columns with "
                "columns={'distribution': [...]}."
            )
        score_values = own_values
        bins = [bins[value] for value in score_values]
    if isinstance(bins, list):
        if score_values is None or len(check_score_values(score_values)) != len(bins):
            raise RatingsError(
                f"{source}: {len(bins)} columns hold votes; pass `score_values` with {len(bins)} ratings."
            )
        votes = np.stack([parse_numbers(table[column], problems, column) for column in bins], axis=1)
        empty = np.isnan(votes)
        data["distribution"] = [None if all_empty else row for row, all_empty in zip(votes, empty.all(axis=1))]
        unparsed = set(problems.rows)
        for row, column in np.argwhere(empty & ~empty.all(axis=1)[:, None]):
            if int(row) not in unparsed:
                problems.add(row, bins[column], None, "the cell is empty; write 0 where nobody voted so.")
        for row in problems.rows:
            data["distribution"][row] = None  # what is wrong with it is noted
    elif bins is not None:
        data["distribution"] = [_parse_list(cell) for cell in table[bins]]
    if score_values is None:
        raise UnknownScaleError(
            f"{source}: the ends of the scale are unknown; pass `score_values`, the rating of each bin, e.g. "
            "score_values=[1, 2, 3, 4, 5], or name the vote columns votes_1, votes_2, ...",
            _ends_of(table[found["mean"]], source) if bins is None else None,
        )
    used = {*found.values(), *(bins if isinstance(bins, list) else [bins])}
    # A column that bears a name of the schema, but was not chosen for it, would be mistaken for it later.
    extra = {
        own: infer_numbers(cells) for own, cells in table.items() if own not in used and own not in SCHEMA_COLUMNS
    }
    known_as = {**found, **({} if bins is None else {"distribution": bins})}
    return build_ratings(
        data | extra,
        score_values,
        name=name,
        image_dir=image_dir,
        source=source,
        row_names=row_names,
        column_names=known_as,
        attributes=attributes,
        problems=problems,
    )


def _from_votes(
    table: dict[str, list],
    row_names: list[str],
    source: str,
    name: str,
    image_dir: str | os.PathLike | None,
    score_values: Sequence[float] | None,
    mapping: Mapping[str, Any],
) -> datasets.Dataset:
    """Add up one row a vote to one row an image."""
    votes = votes_of_table(table, row_names, source, mapping)
    data, places = add_up(votes, score_values)
    data = {own: cells if own in SCHEMA_COLUMNS else infer_numbers(cells) for own, cells in data.items()}
    known_as = {**votes.names, "key": votes.names.get("key", votes.names["image"])}
    return build_ratings(
        data, score_values, name=name, image_dir=image_dir, source=source, row_names=places, column_names=known_as
    )


def _ends_of(cells: Sequence, source: str) -> tuple[float, float] | None:
    numbers = parse_numbers(cells, Problems(source), "mean")
    return None if np.isnan(numbers).all() else (float(np.nanmin(numbers)), float(np.nanmax(numbers)))


def _find_columns(table: Mapping[str, list], source: str, mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Map each column of the schema to its name in the file; for numbered votes, to {rating: name}."""
    if not table:
        raise RatingsError(f"{source}: it is empty; the first line must name the columns.")
    known = {*COLUMN_NAMES, "vote", "rater"}
    for column in mapping:
        if column not in known:
            hint = suggest(column, known)
            raise RatingsError(f"{source}: `columns` names {column!r}{hint}; allowed: {sorted(known)}.")
    found: dict[str, Any] = {}
    for column, names in COLUMN_NAMES.items():
        if column in mapping:
            if mapping[column] is not None:
                found[column] = _find_mapped(table, source, column, mapping[column])
            continue
        present = [own for own in table if own.lower() in names]
        if len(present) > 1:
            raise RatingsError(
                f"{source}: the columns {present} all may be the {column!r}; choose one with "
                f"columns={{{column!r}: {present[0]!r}}}."
            )
        if present:
            found[column] = present[0]
    if "distribution" not in mapping and (numbered := _find_numbered(table, source)):
        if own := found.get("distribution"):
            names = list(numbered.values())
            raise RatingsError(
                f"{source}: the column {own!r} and the columns {names} all may be votes; choose with "
                f"columns={{'distribution': {own!r}}} or columns={{'distribution': {names}}}."
            )
        found["distribution"] = numbered
    if "image" not in found:
        _raise_missing(source, "image", COLUMN_NAMES["image"], table)
    if "mean" not in found and "distribution" not in found:
        _raise_missing(source, "mean", (*COLUMN_NAMES["mean"], *COLUMN_NAMES["distribution"], "votes_1"), table)
    return found


def _find_mapped(table: Mapping[str, list], source: str, column: str, wanted: Any) -> Any:
    if column == "distribution" and isinstance(wanted, str) and wanted.endswith("*"):
        pattern = re.compile(re.escape(wanted[:-1]) + _NUMBER)
        if numbered := {float(match[1]): own for own in table if (match := pattern.fullmatch(own))}:
            return numbered
        _raise_missing(source, column, (wanted,), table)
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    for name in names:
        if name not in table:
            _raise_missing(source, column, (name,), table)
    return wanted if isinstance(wanted, str) else names


def _find_numbered(table: Mapping[str, list], source: str) -> dict[float, str]:
    groups: dict[str, dict[float, str]] = {}
    for own in table:
        if match := _NUMBERED.fullmatch(own):
            groups.setdefault(match[1].lower(), {})[float(match[2])] = own
    groups = {prefix: group for prefix, group in groups.items() if len(group) > 1}
    if len(groups) > 1:
        raise RatingsError(
            f"{source}: the columns {[f'{prefix}*' for prefix in groups]} all may be votes; choose with "
            f"columns={{'distribution': '{next(iter(groups))}*'}}."
        )
    return next(iter(groups.values()), {})


def _raise_missing(source: str, column: str, names: Sequence[str], table: Mapping[str, list]) -> None:
    hint = next((text for name in names if (text := suggest(name, table))), "")
    raise RatingsError(
        f"{source}: there is no column {' | '.join(names)}{hint} for the {column!r}; the file has {list(table)}; "
        f"rename one, or pass columns={{{column!r}: <its name>}}."
    )


def _parse_list(cell: Any) -> Any:
    """A histogram in a text cell: "[1, 2, 3]" or "1 2 3". Other cells pass through, to be checked later."""
    if not isinstance(cell, str):
        return cell
    try:
        return json.loads(cell) if cell.lstrip().startswith("[") else [float(part) for part in cell.split()]
    except ValueError:
        return cell


def infer_numbers(cells: list) -> list:
    """Make an extra text column numeric when all of its cells are numbers; "007" is a name, not a number."""
    texts = [cell for cell in cells if cell is not None]
    if not texts or not all(isinstance(text, str) for text in texts):
        return cells
    if all(_WHOLE.fullmatch(text) for text in texts) and all(len(text) < 19 for text in texts):
        return [None if cell is None else int(cell) for cell in cells]
    if all(_is_decimal(text) for text in texts):
        return [None if cell is None else float(cell) for cell in cells]
    return cells


def _is_decimal(text: str) -> bool:
    whole = re.split(r"[.eE]", text, maxsplit=1)[0]
    try:
        return math.isfinite(float(text)) and (whole in ("", "-") or _WHOLE.fullmatch(whole) is not None)
    except ValueError:
        return False
