"""Fingerprints of images: equal bytes, and the same picture in other bytes.

The perceptual hash is that of Zauner (2010), "Implementation and Benchmarking of Perceptual Image Hash Functions": the
signs of the lowest frequencies of a DCT of the small grey picture, here 255 of them where the usual hash has 63,
because pictures of one kind (shirts on a table, a sun over the sea) agree in 63.

The limits were chosen on 7,640 photographs of seven sets and copies of 1,496 of them (`benchmarks/leak_guard.py`, whose
results are in `benchmarks/results/leak_guard.json`). Bits that differ, at most, between a picture and its copy: 27 after
JPEG quality 60, 43 after quality 30, 16 resized by a half, 24 by a quarter, 9 mirrored, 43 with 2 % of its sides cut
off. Of the 29 million pairs of photographs, seven show the same picture (0 to 36 bits); all others differ in at least
55. Beyond the limits are larger cuts: of 5 % of the sides, one copy in five is missed; of 10 %, nearly all.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from scipy.fft import dctn
from tqdm import tqdm

from ..models.image_loading_cskd import ImageLoadError, load_image
from ..processors import cores
from .sources import IMAGE_EXTENSIONS

MAX_DISTANCE = 48
"""Largest number of differing bits, of 255, between two copies of one picture."""

_MAX_LOW_DISTANCE = 16  # of the 63 bits of the lowest frequencies; most pairs are told apart by these alone
_SIDE = 64  # pixels of the grey picture
_FREQUENCIES, _LOW = 16, 8  # on each axis
# Coefficients below this, in grey levels, are noise of the pixels' rounding and of JPEG.
_NOISE = 0.5
# Bits that must be more than noise. The plainest of the photographs has 207; a blank page has none, and all blank
# pages would be copies of one another.
_MIN_DETAIL = 192
_WORDS = _FREQUENCIES**2 // 64
_QUERIES, _REFERENCES = 128, 4096  # compared at once: 4 MB
_BATCH = 256  # images read before the threads are waited for


def _bit_order() -> np.ndarray:
    """Indices of the coefficients, those of the lowest frequencies first, so that the first word holds them."""
    rows, columns = np.indices((_FREQUENCIES, _FREQUENCIES)).reshape(2, -1)
    return np.argsort(np.maximum(rows, columns) >= _LOW, kind="stable")


_ORDER = _bit_order()
# A mirrored picture has the same DCT but for the signs of the odd horizontal frequencies.
_MIRROR = np.packbits(_ORDER % 2 == 1).view(np.uint64)


def perceptual_hash(image: Image.Image) -> np.ndarray | None:
    """The hash of a picture.

    Args:
        image: decoded and upright.

    Returns:
        uint64 (4,), or none for a picture that is too plain to be told from others.
    """
    grey = image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    coefficients = dctn(np.asarray(grey, dtype=np.float32), norm="ortho")[:_FREQUENCIES, :_FREQUENCIES]
    coefficients = coefficients.ravel()[_ORDER]
    coefficients[0] = 0  # the mean grey
    if (np.abs(coefficients) > _NOISE).sum() < _MIN_DETAIL:
        return None
    return np.packbits(coefficients > 0).view(np.uint64)


def mirrored(hashes: np.ndarray) -> np.ndarray:
    """Hashes `(..., 4)` of the pictures flipped left to right."""
    return hashes ^ _MIRROR


def _popcount_by_table(words: np.ndarray) -> np.ndarray:
    parts = np.ascontiguousarray(words).view(np.uint16).reshape(*words.shape, 4)
    return _BITS_SET[parts].sum(-1, dtype=np.uint8)


_BITS_SET = np.array([number.bit_count() for number in range(2**16)], dtype=np.uint8)
_popcount = getattr(np, "bitwise_count", _popcount_by_table)  # numpy 2 has it built in


def differing_bits(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Differing bits of hashes `(..., 4)`; a picture and its mirror image differ in many."""
    return _popcount(first ^ second).sum(-1, dtype=np.int64)


def distance(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Differing bits of hashes `(..., 4)`; the smaller number of the picture and its mirror image."""
    return np.minimum(differing_bits(first, second), differing_bits(first, mirrored(second)))


def nearest(
    queries: np.ndarray, references: np.ndarray, *, threads: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The most similar reference of each query, where one is within `MAX_DISTANCE`, mirrored or not.

    All pairs are compared, in blocks; memory does not grow with their number.

    Args:
        queries: uint64 (n, 4).
        references: uint64 (m, 4).
        threads: at work; as many as there are cores by default.

    Returns:
        index of the reference, -1 for none, and distance, both int64 (n,).
    """
    both = np.concatenate([references, mirrored(references)])
    found, best = np.full(len(queries), -1), np.full(len(queries), MAX_DISTANCE + 1)

    def compare(first: int) -> None:
        block = queries[first : first + _QUERIES]
        for start in range(0, len(both), _REFERENCES):
            others = both[start : start + _REFERENCES]
            near = _popcount(block[:, None, 0] ^ others[None, :, 0]) <= _MAX_LOW_DISTANCE
            # Of the flattened array: `nonzero` of a matrix takes twice as long as all the rest.
            rows, columns = np.divmod(np.flatnonzero(near), len(others))
            if not len(rows):
                continue
            distances = _popcount(block[rows] ^ others[columns]).sum(-1, dtype=np.int64)
            order = np.lexsort((columns, distances, rows))
            rows, at = np.unique(rows[order], return_index=True)
            columns, distances = columns[order][at], distances[order][at]
            better = distances < best[first + rows]
            found[first + rows[better]] = start + columns[better]
            best[first + rows[better]] = distances[better]

    with ThreadPoolExecutor(threads or cores()) as pool:
        list(pool.map(compare, range(0, len(queries), _QUERIES)))
    return np.where(found >= 0, found % max(len(references), 1), -1), best


def earlier_copies(hashes: np.ndarray, *, quiet: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """For each hash an earlier one that it is a copy of; only hashes that are no copies themselves are compared with.

    Args:
        hashes: uint64 (n, 4).
        quiet: no progress bar.

    Returns:
        index of the earlier hash, -1 for none, and distance, both int64 (n,).
    """
    found, distances = np.full(len(hashes), -1), np.full(len(hashes), MAX_DISTANCE + 1)
    kept = np.zeros(0, dtype=np.int64)
    block_size = 8 * _QUERIES
    for first in tqdm(range(0, len(hashes), block_size), desc="comparing images", unit="block", disable=quiet):
        rows = np.arange(first, min(first + block_size, len(hashes)))
        near, away = nearest(hashes[rows], hashes[kept])
        is_copy = near >= 0
        found[rows[is_copy]], distances[rows[is_copy]] = kept[near[is_copy]], away[is_copy]
        rest = rows[~is_copy]
        copy = np.zeros(len(rest), dtype=bool)
        for later, earlier, away in _pairs_within(hashes[rest]):
            if not copy[earlier] and not copy[later]:
                copy[later] = True
                found[rest[later]], distances[rest[later]] = rest[earlier], away
        kept = np.concatenate([kept, rest[~copy]])
    return found, distances


def _pairs_within(hashes: np.ndarray) -> list[tuple[int, int, int]]:
    """(later, earlier, distance) of all copies among a few hashes, sorted."""
    pairs: dict[tuple[int, int], int] = {}
    for others in (hashes, mirrored(hashes)):
        near = _popcount(hashes[:, None, 0] ^ others[None, :, 0]) <= _MAX_LOW_DISTANCE
        later, earlier = np.nonzero(np.tril(near, -1))
        distances = _popcount(hashes[later] ^ others[earlier]).sum(-1, dtype=np.int64)
        for pair in zip(later.tolist(), earlier.tolist(), distances.tolist()):
            if pair[2] <= MAX_DISTANCE:
                pairs[pair[:2]] = min(pair[2], pairs.get(pair[:2], pair[2]))
    return sorted((later, earlier, away) for (later, earlier), away in pairs.items())


def similar_pairs(hashes: np.ndarray) -> np.ndarray:
    """All pairs of hashes within `MAX_DISTANCE`, mirrored or not.

    Args:
        hashes: uint64 (n, 4).

    Returns:
        int64 (pairs, 2): (later, earlier), sorted.
    """
    found = [np.zeros((0, 2), dtype=np.int64)]
    for first in range(0, len(hashes), _QUERIES):
        block = hashes[first : first + _QUERIES]
        for start in range(0, first + len(block), _REFERENCES):
            others = hashes[start : start + _REFERENCES]
            for side in (others, mirrored(others)):
                near = _popcount(block[:, None, 0] ^ side[None, :, 0]) <= _MAX_LOW_DISTANCE
                later, earlier = np.divmod(np.flatnonzero(near), len(side))
                close = _popcount(block[later] ^ side[earlier]).sum(-1, dtype=np.int64) <= MAX_DISTANCE
                close &= first + later > start + earlier
                found.append(np.stack([first + later[close], start + earlier[close]], axis=1))
    return np.unique(np.concatenate(found), axis=0)


class Images(Protocol):
    """What fingerprints are taken of: a source or a collection of `data.sources`."""

    def __len__(self) -> int: ...

    def key(self, index: int) -> str: ...

    def read(self, index: int) -> Any: ...


@dataclass
class Fingerprints:
    """Fingerprints of many images, 32 bytes of hash each.

    Attributes:
        keys: names of the images in reports.
        names: their file names, or none where they have none.
        digests: SHA-256 of the encoded bytes; none for an image that cannot be read or is not stored encoded.
        hashes: uint64 (n, 4); zeros where there is none.
        hashed: bool (n,); whether there is one.
        unreadable: reason by row of each image that cannot be read.
    """

    keys: list[str]
    names: list[str | None]
    digests: list[bytes | None]
    hashes: np.ndarray
    hashed: np.ndarray
    unreadable: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: Sequence[int] | np.ndarray) -> Fingerprints:
        """Those at `rows`, in that order."""
        rows = np.asarray(rows, dtype=np.int64)
        return Fingerprints(
            [self.keys[row] for row in rows],
            [self.names[row] for row in rows],
            [self.digests[row] for row in rows],
            self.hashes[rows],
            self.hashed[rows],
            {new: self.unreadable[old] for new, old in enumerate(rows.tolist()) if old in self.unreadable},
        )

    def plain(self) -> int:
        """Number of images that can be read and have no hash."""
        return len(self) - int(self.hashed.sum()) - len(self.unreadable)


def take_fingerprints(
    images: Images, *, perceptual: bool = True, quiet: bool = True, description: str = "fingerprints"
) -> Fingerprints:
    """Read every image once.

    Args:
        images: a source or a collection.
        perceptual: decode them for their hashes; otherwise only their bytes are read.
        quiet: no progress bar.
        description: of the progress bar.
    """
    total = len(images)
    prints = Fingerprints([], [], [], np.zeros((total, _WORDS), dtype=np.uint64), np.zeros(total, dtype=bool))
    work = partial(fingerprint, perceptual=perceptual)
    with (
        ThreadPoolExecutor(cores()) as pool,
        tqdm(total=total, desc=description, unit="image", disable=quiet) as bar,
    ):
        for first in range(0, total, _BATCH):
            rows = range(first, min(first + _BATCH, total))
            raw = [_read(images, row) for row in rows]
            for row, source, result in zip(rows, raw, pool.map(work, raw)):
                key = images.key(row)
                prints.keys.append(key)
                prints.names.append(_file_name(source, key))
                if isinstance(result, ImageLoadError):
                    prints.digests.append(None)
                    prints.unreadable[row] = result.reason
                    continue
                digest, hashed = result
                prints.digests.append(digest)
                if hashed is not None:
                    prints.hashes[row], prints.hashed[row] = hashed, True
            bar.update(len(rows))
    return prints


def _read(images: Images, row: int) -> Any:
    try:
        return images.read(row)
    except ImageLoadError as error:
        return error


def fingerprint(source: Any, *, perceptual: bool = True) -> tuple[bytes | None, np.ndarray | None] | ImageLoadError:
    """SHA-256 of the encoded bytes, where there are any, and perceptual hash; or why the image cannot be read.

    Args:
        source: anything that `load_image` takes.
        perceptual: decode the image for its hash.
    """
    if isinstance(source, ImageLoadError):
        return source
    try:
        data = _encoded(source)
        digest = hashlib.sha256(data).digest() if data is not None else None
        if data is not None and not perceptual:
            return digest, None
        image = load_image(source if data is None else data, target_size=_SIDE)
    except ImageLoadError as error:
        return error
    except OSError as error:
        return ImageLoadError(str(source), str(error.strerror or error))
    return digest, perceptual_hash(image) if perceptual else None


def _encoded(source: Any) -> bytes | None:
    """The bytes of a file or of a dataset's cell; none for a decoded picture or a URL."""
    if isinstance(source, Mapping):
        source = source["path"] if source.get("bytes") is None else source["bytes"]
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    if isinstance(source, io.BytesIO):
        return source.getvalue()
    if isinstance(source, (str, os.PathLike)) and os.path.isfile(source):
        return Path(source).read_bytes()
    return None


def _file_name(source: Any, key: str) -> str | None:
    """What the image is called: its file name without folder and extension; row numbers are no names."""
    path = source.get("path") if isinstance(source, Mapping) else source
    if not isinstance(path, (str, os.PathLike)):
        path = key
    return name_of(os.fspath(path))


def name_of(key: str) -> str | None:
    """The last part of a key, without the extension of an image, in lower case; none for "row 17".

    Args:
        key: a path, or an id such as AVA's "953619".
    """
    name = key.replace("\\", "/").rsplit("/", 1)[-1].casefold()
    for extension in IMAGE_EXTENSIONS:
        name = name.removesuffix(extension)
    return None if not name or name.startswith("row ") else name


def concatenate(parts: Sequence[Fingerprints]) -> Fingerprints:
    """The images of several fingerprints, one after another."""
    starts = np.cumsum([0, *map(len, parts)]).tolist()
    return Fingerprints(
        [key for part in parts for key in part.keys],
        [name for part in parts for name in part.names],
        [digest for part in parts for digest in part.digests],
        np.concatenate([np.zeros((0, _WORDS), dtype=np.uint64), *(part.hashes for part in parts)]),
        np.concatenate([np.zeros(0, dtype=bool), *(part.hashed for part in parts)]),
        {start + row: reason for start, part in zip(starts, parts) for row, reason in part.unreadable.items()},
    )


def exact_copies(digests: Sequence[bytes | None]) -> Iterator[tuple[int, int]]:
    """(later, first) of images with the same bytes."""
    first: dict[bytes, int] = {}
    for row, digest in enumerate(digests):
        if digest is not None and (earlier := first.setdefault(digest, row)) != row:
            yield row, earlier
