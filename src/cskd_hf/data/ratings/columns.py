"""Which column of a table is which column of the ratings schema: by its name, or as the user says."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from .checks import RatingsError, suggest

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


def find_columns(table: Mapping[str, list], source: str, mapping: Mapping[str, Any]) -> dict[str, Any]:
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
        raise_missing(source, "image", COLUMN_NAMES["image"], table)
    if "mean" not in found and "distribution" not in found:
        raise_missing(source, "mean", (*COLUMN_NAMES["mean"], *COLUMN_NAMES["distribution"], "votes_1"), table)
    return found


def _find_mapped(table: Mapping[str, list], source: str, column: str, wanted: Any) -> Any:
    if column == "distribution" and isinstance(wanted, str) and wanted.endswith("*"):
        pattern = re.compile(re.escape(wanted[:-1]) + _NUMBER)
        if numbered := {float(match[1]): own for own in table if (match := pattern.fullmatch(own))}:
            return numbered
        raise_missing(source, column, (wanted,), table)
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    for name in names:
        if name not in table:
            raise_missing(source, column, (name,), table)
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


def raise_missing(source: str, column: str, names: Sequence[str], table: Mapping[str, list]) -> NoReturn:
    hint = next((text for name in names if (text := suggest(name, table))), "")
    raise RatingsError(
        f"{source}: there is no column {' | '.join(names)}{hint} for the {column!r}; the file has {list(table)}; "
        f"rename one, or pass columns={{{column!r}: <its name>}}."
    )
