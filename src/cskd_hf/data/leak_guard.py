"""The leak guard: unlabelled images that are evaluation images in disguise, and copies among the unlabelled ones.

An unlabelled image leaks an evaluation image if it has

- the same bytes, under whatever name ("bytes");
- a perceptual hash within `MAX_DISTANCE` bits of it or of its mirror image: resized, compressed again, flipped, slightly
  cut or recoloured ("perceptual");
- the same file name, if the pictures may be the same ("key").

A name alone proves little: half of all data sets have a 00001.jpg. So where both pictures can be compared, a shared name
counts only up to `MAX_KEY_DISTANCE` bits, far beyond what an unnamed copy may differ, and one in 100,000 pairs of
different photographs comes as near. Where one of them cannot be compared (the evaluation set is a list without
pictures, or a picture is blank), the name alone decides. Shared names of different pictures are counted in the report.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ..models.image_loading_cskd import ImageLoadError
from .fingerprints import (
    Fingerprints,
    Images,
    concatenate,
    distance,
    earlier_copies,
    exact_copies,
    fingerprint,
    name_of,
    nearest,
    similar_pairs,
    take_fingerprints,
)

logger = logging.getLogger(__name__)

MAX_KEY_DISTANCE = 84
"""Largest number of differing bits, of 255, between two pictures of one name that are taken for the same."""


class LeakError(ValueError):
    """Evaluation images are among the images to train on."""


@dataclass(frozen=True)
class Match:
    """An image and the one that it is a copy of.

    Attributes:
        key: of the image.
        original: key of the evaluation image, or of the earlier copy.
        kind: "bytes", "perceptual" or "key".
        distance: differing bits of their hashes, of 255; none where they were not compared.
    """

    key: str
    original: str
    kind: str
    distance: int | None = None


@dataclass
class Findings:
    """What a search has found.

    Attributes:
        matches: by row of the image.
        other_pictures: names shared by pictures that are not the same.
    """

    matches: dict[int, Match] = field(default_factory=dict)
    other_pictures: int = 0

    def counts(self) -> dict[str, int]:
        """Number of matches of each kind."""
        kinds = Counter(match.kind for match in self.matches.values())
        return {kind: kinds[kind] for kind in ("bytes", "perceptual", "key")}

    def report(self) -> dict[str, Any]:
        """Counts and pairs, ready for JSON."""
        return {"found": len(self.matches), **self.counts(), "pairs": [asdict(m) for m in self.matches.values()]}


class LeakGuard:
    """Finds evaluation images among others.

    Args:
        evaluation: fingerprints of the evaluation images.
    """

    def __init__(self, evaluation: Fingerprints) -> None:
        self.evaluation = evaluation
        self._by_bytes = {digest: row for row, digest in enumerate(evaluation.digests) if digest is not None}
        self._by_name: dict[str, list[int]] = defaultdict(list)
        for row, name in enumerate(evaluation.names):
            if name is not None:
                self._by_name[name].append(row)
        self._rows = np.flatnonzero(evaluation.hashed)
        self._hashes = evaluation.hashes[self._rows]

        if unreadable := evaluation.unreadable:
            row, reason = next(iter(unreadable.items()))
            logger.warning(
                "%d of %d evaluation images cannot be read and are looked for by name alone, e.g. %s (%s)",
                len(unreadable),
                len(evaluation),
                evaluation.keys[row],
                reason,
            )

    @classmethod
    def of(cls, sources: Sequence[Images], *, quiet: bool = True) -> LeakGuard:
        """Take the fingerprints of evaluation images; those that cannot be read are known by name alone."""
        parts = [take_fingerprints(source, quiet=quiet, description="evaluation images") for source in sources]
        return cls(concatenate(parts))

    def __len__(self) -> int:
        return len(self.evaluation)

    def matches(self, source: Any, key: str) -> Match | None:
        """Whether one image is an evaluation image, for images that come one by one.

        Args:
            source: anything that `load_image` takes; the encoded bytes rather than the decoded picture, if at hand.
            key: its name.

        Returns:
            the match, or none, as for an image that cannot be read.
        """
        result = fingerprint(source)
        if isinstance(result, ImageLoadError):
            return None
        digest, hashed = result
        hashes = np.zeros((1, 4), dtype=np.uint64) if hashed is None else hashed[None]
        prints = Fingerprints([key], [name_of(key)], [digest], hashes, np.array([hashed is not None]))
        return self.find(prints).matches.get(0)

    def find(self, prints: Fingerprints, *, threads: int | None = None) -> Findings:
        """All matches of many images.

        Args:
            prints: their fingerprints.
            threads: that compare.
        """
        findings, originals = Findings(), self.evaluation.keys
        rows = np.flatnonzero(prints.hashed)
        near, away = nearest(prints.hashes[rows], self._hashes, threads=threads)
        similar = {int(row): (int(self._rows[at]), int(bits)) for row, at, bits in zip(rows, near, away) if at >= 0}
        for row, (key, digest) in enumerate(zip(prints.keys, prints.digests)):
            if digest is not None and digest in self._by_bytes:
                findings.matches[row] = Match(key, originals[self._by_bytes[digest]], "bytes")
            elif row in similar:
                at, bits = similar[row]
                findings.matches[row] = Match(key, originals[at], "perceptual", bits)
            elif row not in prints.unreadable:
                self._match_name(prints, row, findings)
        return findings

    def _match_name(self, prints: Fingerprints, row: int, findings: Findings) -> None:
        same_name = self._by_name.get(prints.names[row] or "", [])
        for at in same_name:
            comparable = prints.hashed[row] and self.evaluation.hashed[at]
            bits = int(distance(prints.hashes[row], self.evaluation.hashes[at])) if comparable else None
            if bits is None or bits <= MAX_KEY_DISTANCE:
                findings.matches[row] = Match(prints.keys[row], self.evaluation.keys[at], "key", bits)
                return
        findings.other_pictures += bool(same_name)


def find_duplicates(prints: Fingerprints, *, perceptual: bool, quiet: bool = True) -> Findings:
    """Copies of earlier images, which are to be left out; the first of each kind stays.

    Args:
        prints: fingerprints of all images.
        perceptual: also find the same picture in other bytes.
        quiet: no progress bar.
    """
    findings = Findings()
    for later, first in exact_copies(prints.digests):
        findings.matches[later] = Match(prints.keys[later], prints.keys[first], "bytes")
    if perceptual:
        rows = np.array([row for row in np.flatnonzero(prints.hashed) if row not in findings.matches], dtype=np.int64)
        earlier, away = earlier_copies(prints.hashes[rows], quiet=quiet)
        for row, at, bits in zip(rows.tolist(), earlier.tolist(), away.tolist()):
            if at >= 0:
                findings.matches[row] = Match(prints.keys[row], prints.keys[rows[at]], "perceptual", bits)
    findings.matches = dict(sorted(findings.matches.items()))
    return findings


def same_pictures(prints: Fingerprints) -> np.ndarray:
    """A number for each image, equal for images that are copies of one another, also by way of a third.

    Unlike `find_duplicates`, which has each copy point at one image that stays, every pair counts: of three cuts in a
    row, the first and the last may not resemble each other, and still show parts of one picture.

    Args:
        prints: fingerprints of all images, perceptual ones included.

    Returns:
        int64 (n,), counted from 0.
    """
    rows = np.flatnonzero(prints.hashed)
    exact = np.array(list(exact_copies(prints.digests)), dtype=np.int64).reshape(-1, 2)
    pairs = np.concatenate([exact, rows[similar_pairs(prints.hashes[rows])]])
    links = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(prints), len(prints)))
    return connected_components(links, directed=False)[1].astype(np.int64)
