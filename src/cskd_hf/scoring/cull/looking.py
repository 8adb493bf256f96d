"""One reading of each photograph for everything: score, embedding, perceptual hash and thumbnail."""

from __future__ import annotations

import io
import os
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...data.fingerprints import perceptual_hash
from ...models.image_loading_cskd import load_image
from ..engine import Engine
from ..scan import scan

THUMBNAIL = 256
"""Long side in pixels."""

THUMBNAIL_BYTES = 14_000
"""A busy picture is stored at a lower quality to stay below."""

_QUALITIES = (78, 62, 45, 30)


@dataclass
class Photograph:
    """What is known of a photograph.

    Attributes:
        path: of the file.
        result: what the engine gives, without `embeds`; or `error`.
        size: width and height in pixels, upright; at a reduced scale where it was decoded so.
        hash: uint64 (4,); none of a picture that is too plain.
        embeds: float32 (dim,).
        thumbnail: place and length in the store.
        percentile: share of the reference in percent that scores lower.
        stars: 1 to 5; 0 without a score.
        group: number of its group; 0 for none.
        choice: "best" or "other" of a group, else "single".
    """

    path: str
    result: dict[str, Any]
    size: tuple[int, int] = (0, 0)
    hash: np.ndarray | None = None
    embeds: np.ndarray | None = None
    thumbnail: tuple[int, int] | None = None
    percentile: float | None = None
    stars: int = 0
    group: int = 0
    choice: str = "single"

    @property
    def score(self) -> float | None:
        """On the scale of the model; none of an unreadable file."""
        return self.result.get("score")


class Thumbnails:
    """Small JPEG pictures in a temporary file, since those of many photographs do not fit in memory.

    Args:
        folder: that the file lies in; it has no name there and is gone when it is closed.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)
        self._lock = threading.Lock()

    def add(self, image: Image.Image) -> tuple[int, int]:
        """Store one; returns its place and length."""
        data = thumbnail(image)
        with self._lock:
            place = self._file.seek(0, os.SEEK_END)
            self._file.write(data)
        return place, len(data)

    def read(self, place: tuple[int, int]) -> bytes:
        """The JPEG file of one."""
        with self._lock:
            self._file.seek(place[0])
            return self._file.read(place[1])

    def close(self) -> None:
        """Give the file back."""
        self._file.close()


def thumbnail(image: Image.Image) -> bytes:
    """A JPEG file of at most `THUMBNAIL` pixels and, unless the picture is noise, `THUMBNAIL_BYTES`."""
    small = image.copy() if max(image.size) <= THUMBNAIL else image
    if small is image:
        scale = THUMBNAIL / max(image.size)
        size = tuple(max(1, round(side * scale)) for side in image.size)
        small = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    for quality in _QUALITIES:
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= THUMBNAIL_BYTES:
            break
    return buffer.getvalue()


@dataclass
class _Looking:
    """An engine that keeps what else can be seen of each picture while it is decoded anyway."""

    engine: Engine
    thumbnails: Thumbnails
    allow_truncated: bool
    seen: dict[str, tuple[tuple[int, int], np.ndarray | None, tuple[int, int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.preparation = self.engine.preparation
        self.score = self.engine.score
        self.beside = getattr(self.engine, "beside", nullcontext)

    def prepare(self, source: Path) -> np.ndarray:
        """As in `Engine`; a picture that is decoded already passes the door once more unchanged."""
        target_size = getattr(self.preparation, "target_size", None)
        image = load_image(source, target_size=target_size, allow_truncated=self.allow_truncated)
        pixels = self.engine.prepare(image)
        self.seen[os.fspath(source)] = image.size, perceptual_hash(image), self.thumbnails.add(image)
        return pixels


def look(
    engine: Engine,
    paths: Iterable[str],
    thumbnails: Thumbnails,
    *,
    batch_size: int = 16,
    workers: int | None = None,
    allow_truncated: bool = False,
) -> Iterator[Photograph]:
    """Look at photographs in their order; one that cannot be read has an `error` in its result.

    Args:
        engine: what scores; its options decide how JPEG files are decoded.
        paths: of the files.
        thumbnails: store for small pictures.
        batch_size, workers: as in `scan`.
        allow_truncated: take the readable part of a file that breaks off.
    """
    looking = _Looking(engine, thumbnails, allow_truncated)
    for result in scan(looking, paths, batch_size=batch_size, workers=workers, embeds=True):
        path, embeds = result.pop("path"), result.pop("embeds", None)
        seen = looking.seen.pop(os.fspath(Path(path)), None)
        kept = {key: value for key, value in result.items() if key not in ("provenance", "distribution")}
        if seen is None or "error" in result:
            yield Photograph(path, {"error": result.get("error", "it was not read")})
        else:
            yield Photograph(path, kept, *seen[:2], embeds=np.asarray(embeds, dtype=np.float32), thumbnail=seen[2])
