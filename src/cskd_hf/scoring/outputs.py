"""Scores as a file, CSV, JSON lines or Parquet, and as a table in the terminal."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..files import replaced_file
from .errors import ScoringError

OUTPUT_EXTENSIONS = (".csv", ".jsonl", ".parquet")
_NUMBERS = ("score", "score_std", "scale_low", "scale_high", "percentile", "calibrated_score")
_NAMED = {"attributes": "attribute", "prompt_attributes": "prompt"}  # field of a result: start of the columns' names
_ROW_GROUP = 16_384
_FEW = 20


def check_output(output: str | None) -> None:
    """Refuse the name of an output that is of no known kind.

    Raises:
        ScoringError: it has another extension, or is a folder.
    """
    if output is None:
        return
    if Path(output).suffix.lower() not in OUTPUT_EXTENSIONS:
        known = f"{', '.join(OUTPUT_EXTENSIONS[:-1])} or {OUTPUT_EXTENSIONS[-1]}"
        raise ScoringError(f"--output '{output}' must end in {known}.")
    if Path(output).is_dir():
        raise ScoringError(f"--output '{output}' is a folder; give a file.")


def columns(sample: dict[str, Any]) -> tuple[str, ...]:
    """Columns of a CSV or Parquet file.

    Args:
        sample: any result of the model with a score, or nothing; it shows which attributes the model has.
    """
    named = [name for name in flat_row(sample) if name.startswith(tuple(f"{prefix}_" for prefix in _NAMED.values()))]
    return ("path", *_NUMBERS, *named, "error")


def flat_row(result: dict[str, Any]) -> dict[str, Any]:
    """A result as a row of a table: `scale`, `attributes` and `prompt_attributes` become columns of their own."""
    row = {key: value for key, value in result.items() if key != "scale" and key not in _NAMED}
    if "scale" in result:
        row["scale_low"], row["scale_high"] = result["scale"]
    for field, prefix in _NAMED.items():
        row |= {f"{prefix}_{name}": value for name, value in result.get(field, {}).items()}
    return row


def shown_attributes(result: dict[str, Any]) -> dict[str, tuple[str, float]]:
    """Attributes and prompts of a result under names for the eye: the field of each and its value.

    A prompt pair that has the name of an attribute is told apart, since it has another scale.
    """
    shown: dict[str, tuple[str, float]] = {}
    for field in _NAMED:
        for name, value in (result.get(field) or {}).items():
            if isinstance(value, (int, float)):
                shown[f"{name} ({_NAMED[field]})" if name in shown else name] = field, value
    return shown


def write_results(results: Iterable[dict[str, Any]], output: str | os.PathLike, sample: dict[str, Any]) -> None:
    """Write results to a file, which appears whole or not at all.

    Args:
        results: each with `path`, in the order of the rows; read one after the other.
        output: .csv, .jsonl or .parquet.
        sample: see `columns`.
    """
    path = Path(output)
    opened = {".csv": _csv_file, ".jsonl": _json_lines, ".parquet": _parquet_file}[path.suffix.lower()]
    with replaced_file(path) as partial, opened(partial, columns(sample)) as write:
        for result in results:
            write(result)


# A file name need not be valid text; surrogateescape gives the bytes back that it was read from.
@contextlib.contextmanager
def _csv_file(path: Path, names: Sequence[str]) -> Iterator[Callable[[dict[str, Any]], object]]:
    with open(path, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        table = csv.DictWriter(file, names)
        table.writeheader()
        yield lambda result: table.writerow(flat_row(result))


@contextlib.contextmanager
def _json_lines(path: Path, names: Sequence[str]) -> Iterator[Callable[[dict[str, Any]], object]]:
    with open(path, "w", encoding="utf-8") as file:
        yield lambda result: file.write(json.dumps(result) + "\n")


@contextlib.contextmanager
def _parquet_file(path: Path, names: Sequence[str]) -> Iterator[Callable[[dict[str, Any]], object]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"path": pa.string(), "error": pa.string()}
    schema = pa.schema([(name, kinds.get(name, pa.float64())) for name in names])
    rows: list[dict[str, Any]] = []
    with pq.ParquetWriter(path, schema) as table:

        def flush() -> None:
            table.write_table(pa.Table.from_pylist(rows, schema=schema))
            rows.clear()

        def write(result: dict[str, Any]) -> None:
            # Parquet has valid text only: bytes of a file name that are none become their escapes.
            shown = os.fsencode(result["path"]).decode("utf-8", errors="backslashreplace")
            rows.append(flat_row(result) | {"path": shown})
            if len(rows) >= _ROW_GROUP:
                flush()

        yield write
        flush()


def print_table(results: Iterable[dict[str, Any]], shown: int, total: int) -> None:
    """Print scored images, the best first.

    Args:
        results: at least one, all with a score.
        shown: how many these are.
        total: how many there are in all.
    """
    for number, result in enumerate(results):
        if not number:
            low, high = result["scale"]
            what = f"the best {shown} of {total} images" if shown < total else f"{total} images"
            print(f"{what}, on a scale of {low:g} to {high:g}, the best first")
            print(f"{'score':>7}  {'std':>6}  {'better than  ' if 'percentile' in result else ''}path")
        share = f"{result['percentile']:9.1f} %  " if "percentile" in result else ""
        print(f"{result['score']:7.3f}  {result['score_std']:6.3f}  {share}{printable(result['path'])}")


def print_unreadable(results: Iterable[dict[str, Any]], count: int, output: str | None) -> None:
    """Name the files that could not be scored, on stderr; of many only the first, where a file holds them all."""
    for number, result in enumerate(results):
        if output is not None and number >= _FEW:
            print(f"not scored: {count - _FEW} more, see the errors in {output}", file=sys.stderr)
            break
        print(f"not scored: {printable(result['path'])}: {result['error']}", file=sys.stderr)


def printable(path: str) -> str:
    """The path in one line of valid text; a terminal refuses half a character, and a file name may hold one."""
    return "".join(character if character.isprintable() else "?" for character in path)
