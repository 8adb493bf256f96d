"""The first sheet of an .xlsx workbook, read as what it is: XML in a zip archive (ECMA-376)."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Iterator
from xml.etree import ElementTree

from ..ratings.checks import RatingsError

_MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_RELATION = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}id"
_MAX_PART = 1 << 28  # bytes unpacked: a workbook of scores has a few million


def read_xlsx(path: str | os.PathLike) -> tuple[dict[str, list[str | None]], list[str]]:
    """Read the first sheet to columns of raw cells as text, named by its first row, and the place of each row ("row 7").

    Formulas count as the value that was saved with them; dates are not decoded.

    Raises:
        RatingsError: it is no workbook, or its first row names no columns or one twice.
    """
    try:
        with zipfile.ZipFile(path) as book:
            texts = _shared_texts(book)
            rows = dict(_rows(_part(book, _first_sheet(book)), texts))
    except (OSError, zipfile.BadZipFile, KeyError, ElementTree.ParseError, ValueError, IndexError) as error:
        raise RatingsError(f"{path}: it cannot be read as .xlsx ({error}); save it as .xlsx again.") from error
    if not rows:
        raise RatingsError(f"{path}: its first sheet is empty.")
    head = rows.pop(min(rows))
    names = {column: name.strip() for column, name in head.items() if name and name.strip()}
    if len(set(names.values())) < len(names) or not names:
        raise RatingsError(f"{path}: its first row must name the columns, each once; it has {list(head.values())}.")
    filled = {number: row for number, row in rows.items() if any(row.get(column) for column in names)}
    table = {name: [row.get(column) for row in filled.values()] for column, name in names.items()}
    return table, [f"row {number}" for number in filled]


def _part(book: zipfile.ZipFile, name: str) -> ElementTree.Element:
    if book.getinfo(name).file_size > _MAX_PART:
        raise ValueError(f"its part {name} is larger than {_MAX_PART} bytes")
    return ElementTree.fromstring(book.read(name))


def _first_sheet(book: zipfile.ZipFile) -> str:
    """Name of the part with the first sheet: the workbook names a relation, the relations name the part."""
    sheet = _part(book, "xl/workbook.xml").find(f"{_MAIN}sheets/{_MAIN}sheet")
    if sheet is None:
        raise ValueError("it has no sheet")
    for relation in _part(book, "xl/_rels/workbook.xml.rels"):
        if relation.get("Id") == sheet.get(_RELATION):
            target = relation.get("Target", "")
            return target.lstrip("/") if target.startswith("/") else f"xl/{target}"
    raise ValueError("its first sheet is missing")


def _shared_texts(book: zipfile.ZipFile) -> list[str]:
    if "xl/sharedStrings.xml" not in book.namelist():
        return []
    return [_text(item) for item in _part(book, "xl/sharedStrings.xml").findall(f"{_MAIN}si")]


def _text(item: ElementTree.Element) -> str:
    """Text of a cell, its runs joined; phonetic notes (rPh) are no part of it."""
    runs = [item.find(f"{_MAIN}t"), *item.findall(f"{_MAIN}r/{_MAIN}t")]
    return "".join(run.text or "" for run in runs if run is not None)


def _rows(sheet: ElementTree.Element, texts: list[str]) -> Iterator[tuple[int, dict[int, str | None]]]:
    """Number of each row and its cells by column; both may be left out in the file, and count on then."""
    number = 0
    for row in sheet.iterfind(f"{_MAIN}sheetData/{_MAIN}row"):
        number = int(row.get("r", number + 1))
        cells: dict[int, str | None] = {}
        column = -1
        for cell in row.iterfind(f"{_MAIN}c"):
            column = _column(cell.get("r"), column + 1)
            cells[column] = _value(cell, texts)
        yield number, cells


def _column(reference: str | None, otherwise: int) -> int:
    letters = re.match(r"[A-Z]+", reference or "")
    if not letters:
        return otherwise
    number = 0
    for letter in letters[0]:
        number = 26 * number + ord(letter) - ord("A") + 1
    return number - 1


def _value(cell: ElementTree.Element, texts: list[str]) -> str | None:
    kind = cell.get("t", "n")
    if kind == "inlineStr":
        item = cell.find(f"{_MAIN}is")
        return None if item is None else _text(item).strip() or None
    value = cell.findtext(f"{_MAIN}v")
    if value is None or not value.strip():
        return None
    return (texts[int(value)] if kind == "s" else value).strip() or None
