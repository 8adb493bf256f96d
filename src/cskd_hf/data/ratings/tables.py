"""Tables of raw cells from CSV, TSV, JSONL and Parquet files, with the place of each row."""

from __future__ import annotations

import csv
import json
import math
import os
import re
from pathlib import Path
from typing import Any

from .checks import Problems, RatingsError

FORMATS = ".csv, .tsv, .jsonl, .parquet, or a folder written by save_to_disk"
_WHOLE = re.compile(r"-?(0|[1-9]\d*)")


def read_table(path: str | os.PathLike, delimiter: str = "") -> tuple[dict[str, list], list[str]]:
    """Read a file to columns of raw cells, and the place of each row in the file ("line 7").

    Args:
        path: a .csv, .tsv, .jsonl or .parquet file.
        delimiter: of a .csv file that is not separated by commas.
    """
    path = Path(path)
    if not path.exists():
        raise RatingsError(f"{path}: there is no such file; give one of: {FORMATS}.")
    kind = path.suffix.lower()
    try:
        if kind in (".csv", ".tsv"):
            return _read_csv(path, delimiter or ("," if kind == ".csv" else "\t"))
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
    raise RatingsError(f"{path}: unknown kind of file {kind!r}; allowed: {FORMATS}.")


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


def parse_list(cell: Any) -> Any:
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
