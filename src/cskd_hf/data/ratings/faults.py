"""What is wrong with labelled data: refused with its first five faults, or listed in full."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_SHOWN_PROBLEMS = 5


class RatingsError(ValueError):
    """Labelled data that cannot be used; the message says where, what was found, what is allowed and what to do."""


class UnknownScaleError(RatingsError):
    """Nothing says which ratings the bins stand for, or where the scale of the ratings ends.

    Args:
        message (`str`): As of any error.
        ends (`tuple[float, float]`, *optional*): The lowest and the highest rating found; none where there are only
            votes in bins of unknown value.
    """

    def __init__(self, message: str, ends: tuple[float, float] | None = None):
        super().__init__(message)
        self.ends = ends


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with labelled data.

    Attributes:
        kind: e.g. "missing image"; see `FAULT_KINDS`.
        file: the file or data set.
        row: where it stands in it, e.g. "line 7".
        column: as the user knows it.
        value: what was found.
        advice: what is allowed, and what to do.
    """

    kind: str
    file: str
    row: str
    column: str
    value: Any
    advice: str

    def __str__(self) -> str:
        value = repr(self.value)
        value = value if len(value) <= 80 else f"{value[:32]}...{value[-45:]}"  # the end of a path tells more
        return f"{self.row}, column '{self.column}', value {value}: {self.advice}"


FAULT_KINDS = (
    "missing image",
    "unreadable image",
    "duplicated key",
    "shared between splits",
    "not a number",
    "negative votes",
    "wrong bin count",
    "bad value",
)


@dataclass
class FaultList:
    """All that is wrong with what was read under `collect_faults`.

    Attributes:
        faults: in the order in which they were found.
        places: file and row of each key that was read.
    """

    faults: list[Fault] = field(default_factory=list)
    places: dict[str, tuple[str, str]] = field(default_factory=dict)


_COLLECTED: ContextVar[FaultList | None] = ContextVar("collected faults", default=None)


@contextmanager
def collect_faults() -> Iterator[FaultList]:
    """Within the block, faulty rows of labelled data are left out and listed, instead of being refused."""
    faults = FaultList()
    token = _COLLECTED.set(faults)
    try:
        yield faults
    finally:
        _COLLECTED.reset(token)


class Problems:
    """Collects what is wrong with one source, to report the first five problems and the total at once.

    Args:
        source (`str`): Name of the file or data set.
        row_names (`Sequence[str]`, *optional*): Where each row stands, e.g. `"line 7"`; default `"row 1"`, ...
    """

    def __init__(self, source: str, row_names: Sequence[str] | None = None):
        self.source = source
        self.row_names = row_names
        self.shown: list[str] = []
        self.total = 0
        self.rows: set[int] = set()
        self.collected = _COLLECTED.get()

    def add(self, row: int, column: str, value: Any, advice: str, kind: str = "bad value") -> None:
        """Note one problem: 0-based `row`, the `column` as the user knows it, the `value`, and what is allowed."""
        self.total += 1
        self.rows.add(int(row))
        if len(self.shown) < _SHOWN_PROBLEMS or self.collected is not None:
            value = value.item() if isinstance(value, np.generic) else value
            fault = Fault(kind, self.source, self.place(row), column, value, advice)
            self.shown = (self.shown + [str(fault)])[:_SHOWN_PROBLEMS]
            if self.collected is not None:
                self.collected.faults.append(fault)

    def place(self, row: int) -> str:
        """What the user calls a row."""
        return self.row_names[row] if self.row_names is not None else f"row {row + 1}"

    def raise_if_any(self) -> None:
        """Raise `RatingsError` if anything was added, unless faults are collected."""
        if self.total and self.collected is None:
            count = f"{self.total} problem{'s' if self.total > 1 else ''}"
            more = f", the first {len(self.shown)} are" if self.total > len(self.shown) else ""
            raise RatingsError(f"{self.source}: {count}{more}:\n  " + "\n  ".join(self.shown))
