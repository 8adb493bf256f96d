"""The scores of a run so far, on disk: what a killed run resumes from, and what the output is written from."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from .errors import ScoringError
from .scan import RESULT, FileState, Scored, in_batches

_FORMAT = "1"
_MANY = 4096  # rows a query: the ledger of a million files must not be read into memory
_TABLES = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS listing (position INTEGER PRIMARY KEY, path BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS results (
    path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, digest TEXT, score REAL, result TEXT NOT NULL
) WITHOUT ROWID;
"""
_WITHOUT_RESULT = "NOT EXISTS (SELECT 1 FROM results r WHERE r.path = l.path)"


class Ledger:
    """Results by path, in a SQLite file. A batch is written whole or not at all, whatever kills the process.

    Only one process writes to a ledger; a second one is refused. Paths are kept as bytes, since a file name need not be
    valid text.

    Args:
        path: the file; none keeps the results in a temporary one.
        readonly: read a ledger that nobody writes to; several processes may.

    Raises:
        ScoringError: it is in use, of another format, or no ledger.
    """

    def __init__(self, path: str | os.PathLike | None, *, readonly: bool = False) -> None:
        self.path = None if path is None else Path(path)
        self._readonly, self._closed = readonly, False
        try:
            self._base = self._open()
        except sqlite3.Error as error:
            raise ScoringError(self._refusal(error)) from error

    def _open(self) -> sqlite3.Connection:
        if self.path is None:
            base = sqlite3.connect("", isolation_level=None)
        elif self._readonly:
            return sqlite3.connect(
                f"{self.path.resolve().as_uri()}?mode=ro&immutable=1", uri=True, isolation_level=None
            )
        else:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            base = sqlite3.connect(self.path, isolation_level=None, timeout=1)
        # Exclusive first: the log then needs no shared memory, which network file systems do not have.
        base.execute("PRAGMA locking_mode=EXCLUSIVE")
        base.execute("PRAGMA journal_mode=WAL")
        base.execute("PRAGMA synchronous=NORMAL")
        base.execute("BEGIN IMMEDIATE")
        for statement in _TABLES.split(";"):
            base.execute(statement)
        base.execute("INSERT OR IGNORE INTO meta VALUES ('format', ?)", (_FORMAT,))
        base.execute("COMMIT")
        found = base.execute("SELECT value FROM meta WHERE name = 'format'").fetchone()[0]
        if found != _FORMAT:
            raise ScoringError(
                f"'{self.path}' is a ledger of format {found}, this version writes {_FORMAT}; remove it."
            )
        return base

    def _refusal(self, error: sqlite3.Error) -> str:
        if "locked" in str(error):
            return (
                f"'{self.path}' is in use: another run scores into this output; wait for it, or give another --output."
            )
        return (
            f"'{self.path}' cannot be used as the ledger of the scores ({error}); remove it, or give another --output."
        )

    def accept(self, settings: dict[str, Any], *, restart: bool = False) -> None:
        """Take on the settings of this run.

        Args:
            settings: of the engine.
            restart: forget all results.

        Raises:
            ScoringError: the ledger holds results of other settings; the message says what differs.
        """
        with self._transaction():
            if restart:
                self._base.execute("DELETE FROM results")
            found = self._settings()
            count = self._base.execute("SELECT COUNT(*) FROM results").fetchone()[0]
            new = json.dumps(settings, sort_keys=True)
            if count and found not in (None, new):
                old = json.loads(found)
                differing = sorted(
                    key for key in old.keys() | settings.keys() if old.get(key) != json.loads(new).get(key)
                )
                raise ScoringError(
                    f"'{self.path}' holds {count} results of another model or setting (other: {', '.join(differing)}); "
                    "--restart scores all images again, another --output keeps both."
                )
            self._base.execute("INSERT OR REPLACE INTO meta VALUES ('settings', ?)", (new,))

    def _settings(self) -> str | None:
        row = self._base.execute("SELECT value FROM meta WHERE name = 'settings'").fetchone()
        return row[0] if row else None

    def list_files(self, paths: Iterable[str]) -> int:
        """Take on which files this run scores, in order, in place of those of an earlier one.

        Returns:
            how many.
        """
        position = 0
        with self._transaction():
            self._base.execute("DELETE FROM listing")
            for batch in in_batches(paths, _MANY):
                rows = ((position + number, os.fsencode(path)) for number, path in enumerate(batch))
                self._base.executemany("INSERT INTO listing VALUES (?, ?)", rows)
                position += len(batch)
        return position

    def forget_changed(self, state_of: Callable[[str], FileState | None]) -> int:
        """Drop the results of listed files that have changed since, and those of files that could not be read.

        Args:
            state_of: the state of a file now; with a digest only the content counts, else size and time.

        Returns:
            how many listed files keep their result.
        """
        kept = 0
        for rows in self._pages(
            "SELECT l.position, l.path, r.size, r.mtime_ns, r.digest, r.score FROM listing l JOIN results r "
            "ON r.path = l.path"
        ):
            dropped = []
            for _, path, size, mtime_ns, digest, score in rows:
                if score is not None and _unchanged(FileState(size, mtime_ns, digest), state_of(os.fsdecode(path))):
                    kept += 1
                else:
                    dropped.append((path,))
            if dropped:
                with self._transaction():
                    self._base.executemany("DELETE FROM results WHERE path = ?", dropped)
        return kept

    def to_do(self, batch_size: int) -> Iterator[list[str]]:
        """The listed files without a result, in batches.

        A batch holds what is left of `batch_size` neighbours, so that the batches of a resumed run, and with them the last
        bits of its scores, are those of an unbroken one.
        """
        pages = self._pages(
            f"SELECT l.position, l.path FROM listing l WHERE {_WITHOUT_RESULT}",
            span=-(-_MANY // batch_size) * batch_size,
        )
        for rows in pages:
            by_batch: dict[int, list[str]] = {}
            for position, path in rows:
                by_batch.setdefault(position // batch_size, []).append(os.fsdecode(path))
            yield from by_batch.values()

    def write(self, batch: Iterable[Scored]) -> None:
        """Keep the results of a batch; they are safe from a kill of the process when this returns.

        Raises:
            OSError: the disk is full, or the like; what was written before stays.
        """
        with self._transaction():
            self._base.executemany("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?)", map(_row, batch))

    def absorb(self, part: Path) -> None:
        """Take over the results of another ledger, and remove it.

        Raises:
            ScoringError: it is in use, or of other settings.
        """
        with Ledger(part) as other:
            if other._settings() not in (None, self._settings()):
                raise ScoringError(
                    f"'{part}' holds results of another model or setting; --restart scores all images again."
                )
            rows = other._base.execute("SELECT path, size, mtime_ns, digest, score, result FROM results")
            with self._transaction():
                self._base.executemany("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?)", rows)
        part.unlink(missing_ok=True)

    def left(self) -> int:
        """How many listed files have no result."""
        return self._base.execute(f"SELECT COUNT(*) FROM listing l WHERE {_WITHOUT_RESULT}").fetchone()[0]

    def counts(self) -> tuple[int, int]:
        """How many listed files have a score, and how many could not be read."""
        scored, rows = self._base.execute(
            "SELECT COUNT(r.score), COUNT(*) FROM listing l JOIN results r ON r.path = l.path"
        ).fetchone()
        return scored, rows - scored

    def results(self, *, best_first: bool = False, top: int = 0, unreadable: bool | None = None) -> Iterator[dict]:
        """Results of the listed files, each with its `path`.

        Args:
            best_first: highest score first, unreadable files last; else in the order of the listing.
            top: only so many of the best; 0 gives all.
            unreadable: only files with an error, or only those without.
        """
        where = {None: "", True: "WHERE r.score IS NULL", False: "WHERE r.score IS NOT NULL"}[unreadable]
        order = "r.score IS NULL, r.score DESC, l.position" if best_first or top else "l.position"
        query = f"SELECT l.path, r.result FROM listing l JOIN results r ON r.path = l.path {where} ORDER BY {order}"
        for path, result in self._base.execute(query + (f" LIMIT {int(top)}" if top else "")):
            yield {"path": os.fsdecode(path)} | json.loads(result)

    def close(self, *, keep_empty: bool = False) -> None:
        """Close the file, so that others can read it; a second time does nothing.

        Args:
            keep_empty: else a ledger without results is removed.
        """
        closed, self._closed = self._closed, True
        if closed:
            return
        if self._readonly or self.path is None:
            self._base.close()
            return
        empty = self._base.execute("SELECT NOT EXISTS (SELECT 1 FROM results)").fetchone()[0]
        with contextlib.suppress(sqlite3.Error):  # results that were still being read when an error came
            self._base.execute("PRAGMA journal_mode=DELETE")
        self._base.close()
        if empty and not keep_empty:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of it or nothing.

        Raises:
            OSError: the disk is full, or the like.
        """
        try:
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._base.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # of a full disk SQLite has rolled back by itself
                    self._base.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise OSError(f"cannot write to '{self.path or 'a temporary file'}': {error}") from error

    def _pages(self, query: str, span: int = _MANY) -> Iterator[list[tuple]]:
        """Rows of a query of the listing, `span` positions at a time, so that it may be written to in between."""
        last = self._base.execute("SELECT MAX(position) FROM listing").fetchone()[0]
        joined = f"{query} {'AND' if 'WHERE' in query else 'WHERE'} l.position >= ? AND l.position < ? ORDER BY 1"
        for first in range(0, -1 if last is None else last + 1, span):
            yield self._base.execute(joined, (first, first + span)).fetchall()


def _row(scored: Scored) -> tuple:
    size, mtime_ns, digest = scored.state or (None, None, None)
    result = {key: scored.result[key] for key in RESULT if key in scored.result}
    return os.fsencode(scored.path), size, mtime_ns, digest, result.get("score"), json.dumps(result)


def _unchanged(then: FileState, now: FileState | None) -> bool:
    if now is None:
        return False
    if now.digest is not None:
        return now.digest == then.digest
    return (now.size, now.mtime_ns) == (then.size, then.mtime_ns)
