"""Scores of any number of images: threads read ahead, one forward a batch, memory that does not grow."""

from __future__ import annotations

import ctypes
import functools
import itertools
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..files import file_digest
from ..models.image_loading_cskd import ImageLoadError
from ..processors import cores
from .engine import Engine

RESULT = ("score", "score_std", "scale", "percentile", "calibrated_score", "attributes", "prompt_attributes", "error")
"""What is kept of a result for a list of many; the distribution and the provenance are not."""

PIXELS_AT_ONCE = 48_000_000
"""Pixels that are decoded at the same time; a larger picture is decoded alone. Pillow takes 4 bytes for each, and twice
that while it converts colours or turns a picture."""

_LARGE = 16_000_000  # pixels


class FileState(NamedTuple):
    """What shows that a file has not changed.

    Args:
        size: in bytes.
        mtime_ns: time of its last change.
        digest: SHA-256 of its content, where asked for.
    """

    size: int
    mtime_ns: int
    digest: str | None = None


class Scored(NamedTuple):
    """A file and what came out.

    Args:
        path: of the file.
        state: of the file just before it was read; `None` where there was none.
        result: what the engine gives, or `error`.
    """

    path: str
    state: FileState | None
    result: dict[str, Any]


class _Prepared(NamedTuple):
    path: str
    state: FileState | None
    pixels: np.ndarray | None
    error: str | None


def scan(
    engine: Engine,
    paths: Iterable[str | os.PathLike],
    *,
    batch_size: int = 16,
    workers: int | None = None,
    embeds: bool = False,
) -> Iterator[dict[str, Any]]:
    """Score images in their order, one result at a time.

    Args:
        engine: what scores.
        paths: image files; may be endless, and is read a few batches ahead.
        batch_size: images a forward.
        workers: threads that read and prepare images; none is one a core.
        embeds: also give `embeds`, see `Engine.score`.

    Returns:
        For each path `path` and what the engine gives for it, or `path` and `error`.
    """
    batches = in_batches((os.fspath(path) for path in paths), batch_size)
    for batch in scan_batches(engine, batches, workers=workers, embeds=embeds):
        yield from ({"path": scored.path} | scored.result for scored in batch)


def scan_batches(
    engine: Engine,
    batches: Iterable[Sequence[Any]],
    *,
    workers: int | None = None,
    embeds: bool = False,
    state_of: Callable[[str], FileState | None] | None = None,
    source_of: Callable[[Any], Any] = Path,
) -> Iterator[list[Scored]]:
    """Score batches of files in their order.

    An image that cannot be read costs nobody else the score. Closing the iterator, or an error in it, ends the threads.

    Args:
        engine: what scores.
        batches: paths of the files of each.
        workers: threads that read and prepare; none is one a core, 0 does it between the forwards.
        embeds: see `Engine.score`.
        state_of: tells the state of a file before it is read; none does not look.
        source_of: what the image door is given for an entry. A `Path` is a file, even if it is named like a URL.
    """
    read = Reader(engine, state_of, source_of)
    workers = cores() if workers is None else workers
    beside = getattr(engine, "beside", nullcontext)
    for prepared in _read_ahead(read, batches, workers):
        with beside(workers):
            scored = _forward(engine, prepared, embeds)
        yield scored


class Reader:
    """Reads and prepares files, no more pixels at once than memory bears. Threads share it.

    Args:
        engine: prepares the images.
        state_of, source_of: as in `scan_batches`.
    """

    def __init__(
        self,
        engine: Engine,
        state_of: Callable[[str], FileState | None] | None = None,
        source_of: Callable[[Any], Any] = Path,
    ) -> None:
        self._prepare = engine.prepare
        self._pixels_of = getattr(engine.preparation, "decoded_pixels", None)
        self._state_of, self._source_of = state_of, source_of
        self._room = PixelBudget(PIXELS_AT_ONCE)

    def __call__(self, path: str) -> _Prepared:
        state = None
        try:
            state = self._state_of(path) if self._state_of else None
            source = self._source_of(path)
            size = self._pixels_of(source) if self._pixels_of else 0
            with self._room.of(size):
                try:
                    pixels = self._prepare(source)
                finally:
                    if size >= _LARGE:
                        _give_back_memory()
            return _Prepared(path, state, pixels, None)
        except ImageLoadError as error:
            return _Prepared(path, state, None, error.reason or str(error))
        except MemoryError:
            return _Prepared(path, state, None, "not enough memory to prepare it")
        except Exception as error:  # one strange picture must not end a run over a million
            return _Prepared(path, state, None, f"it cannot be prepared ({type(error).__name__}: {str(error)[:200]})")


class PixelBudget:
    """Lets threads in while the pixels that they hold together are few enough, in the order in which they came.

    Args:
        limit: pixels at once; more than that is let in alone.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._used = limit, 0
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    @contextmanager
    def of(self, pixels: int) -> Iterator[None]:
        """Hold room for some pixels."""
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            self._changed.wait_for(
                lambda: self._waiting[0] is ticket and (not self._used or self._used + pixels <= self._limit)
            )
            self._waiting.popleft()
            self._used += pixels
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._used -= pixels
                self._changed.notify_all()


def _give_back_memory() -> None:
    """Return to the system what a large picture took: glibc keeps it for the thread that freed it, 400 MB for 50 million
    pixels, and each worker has some."""
    trim = getattr(_c_library(), "malloc_trim", None)
    if trim is not None:
        trim(0)


@functools.cache
def _c_library() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(None)
    except (OSError, TypeError):  # no such thing on this system
        return None


def in_batches(paths: Iterable[str], batch_size: int) -> Iterator[list[str]]:
    """Lists of `batch_size` paths, the last one shorter."""
    paths = iter(paths)
    while batch := list(itertools.islice(paths, batch_size)):
        yield batch


def file_state(path: str) -> FileState | None:
    """Size and time of the last change; `None` where there is no such file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return FileState(status.st_size, status.st_mtime_ns)


def hashed_state(path: str) -> FileState | None:
    """The same, and the hash of the content of a readable regular file."""
    state = file_state(path)
    if state is None or not os.path.isfile(path):
        return state
    try:
        return state._replace(digest=file_digest(path))
    except OSError:
        return state


def _read_ahead(
    read: Callable[[str], _Prepared], batches: Iterable[Sequence[str]], workers: int
) -> Iterator[list[_Prepared]]:
    """Prepared batches in order; while one is used, as many are read that every worker has two files to do."""
    if workers < 1:
        yield from ([read(path) for path in batch] for batch in batches)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="cskd-read")
    ahead: deque[list[Future[_Prepared]]] = deque()
    waiting = 0
    try:
        for batch in batches:
            ahead.append([pool.submit(read, path) for path in batch])
            waiting += len(batch)
            while len(ahead) > 2 and waiting - len(ahead[0]) >= 2 * workers:
                waiting -= len(ahead[0])
                yield [future.result() for future in ahead.popleft()]
        while ahead:
            yield [future.result() for future in ahead.popleft()]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _forward(engine: Engine, prepared: list[_Prepared], embeds: bool) -> list[Scored]:
    """One forward for each shape of the batch."""
    results: list[dict[str, Any]] = [{"error": entry.error} for entry in prepared]
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for number, entry in enumerate(prepared):
        if entry.pixels is not None:
            by_shape.setdefault(entry.pixels.shape, []).append(number)
    for numbers in by_shape.values():
        pixels = np.stack([prepared[number].pixels for number in numbers])
        for number, result in zip(numbers, engine.score(pixels, **({"embeds": True} if embeds else {}))):
            finite = math.isfinite(result["score"])
            results[number] = result if finite else {"error": "the model's score of it is not a number"}
    return [Scored(entry.path, entry.state, result) for entry, result in zip(prepared, results)]
