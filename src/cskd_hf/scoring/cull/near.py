"""Near-duplicates: photographs of one moment, that differ by a step aside, the exposure, a crop or the compression.

Candidates come from the perceptual hashes of `data.fingerprints`, and from the listing, since the shots of a burst have
names that follow one another. The model's own embedding confirms them: its cosine distance must be a small share of the
usual distance between photographs that do not look alike, because cosines of different models cannot be compared.

The limits were chosen on 1,796 photographs (OASIS, LNSIM, phone photographs of clothes, BSDS500) and 15 changed copies
of each of 200 of them, with a student of 256 values. Of the 1.6 million pairs of different photographs two become a
group: two exposures of one night sky, and two black caps on one red cloth. Share of the copies that are found beside
their original in the listing, and anywhere: recompressed, reduced by a half, darker, brighter, more contrast, grey, or
with 5 % of the sides cut off: all; turned by 2 degrees .99 and .99, by 4 degrees .92 and .48; 10 % cut off .96 and .72;
moved by 5 % .97 and .83, by 10 % .38 and .02; moved by 6 %, turned by 1 degree, brighter and recompressed, as in a burst,
.83 and .23; 20 % cut off .26 and .03. Real bursts were not at hand. Of the pairs that comparing all of 4,796 pictures
finds, the sorted tables find 98 %.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...data.fingerprints import MAX_DISTANCE, differing_bits

if TYPE_CHECKING:
    from ..engine import Engine

COPY, COPY_SHARE = MAX_DISTANCE, 1.0
"""Up to so many bits it is the same picture; the embedding need only be no stranger than that of any photograph."""

ALIKE, ALIKE_SHARE = 72, 0.2
"""Up to so many bits hardly any two photographs come by chance."""

ANYWHERE, ANYWHERE_SHARE = 96, 0.04
"""Wherever in the listing they are; shirts on one table and caps on one cloth must stay apart."""

BURST, BURST_SHARE = 112, 0.08
"""For photographs that stand close together in the listing."""

EXACT_UP_TO = 2048
"""Of so few photographs all pairs are compared; of more that would take time with the square of their number."""

NEIGHBOURS = 8
"""Photographs that each one is compared with in the listing, and in each of the sorted tables."""

TABLES = 24
"""Orders of the hashes, each by other bits first: hashes that differ in few bits stand close together in one of them."""

_DRIFT = 2 * BURST_SHARE  # of the usual distance, between the first photographs of two groups that become one
_UNLIKE, _ENOUGH_PAIRS, _SAMPLED_PAIRS = 112, 100, 20_000
_SYNTHETIC = 24
_BLOCK = 256


def near_groups(hashes: np.ndarray, embeds: np.ndarray, usual: float) -> np.ndarray:
    """Number of the group of each photograph.

    Args:
        hashes: uint64 (n, 4), in the order of the listing.
        embeds: (n, dim), of length 1.
        usual: cosine distance of unlike photographs, see `usual_distance`.

    Returns:
        int64 (n,): 0 for none, else 1, 2, ... in the order of their first photographs.
    """
    pairs, shares = _confirmed(hashes, embeds, usual)
    parent = list(range(len(hashes)))

    def first_of(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for place in np.lexsort((pairs[:, 1], pairs[:, 0], shares)):
        one, other = sorted((first_of(int(pairs[place, 0])), first_of(int(pairs[place, 1]))))
        if one == other:
            continue
        # A long series of small steps ends somewhere else: then it is several groups.
        apart = (1 - float(embeds[one] @ embeds[other])) / usual
        if apart <= max(_DRIFT, float(shares[place]) + 1e-5):  # of two single ones it is the share, but for rounding
            parent[other] = one
    firsts = np.array([first_of(row) for row in range(len(hashes))], dtype=np.int64)
    sizes = np.bincount(firsts, minlength=len(hashes))
    numbers = np.cumsum(sizes > 1) * (sizes > 1)
    return numbers[firsts]


def usual_distance(hashes: np.ndarray, embeds: np.ndarray, engine: Engine) -> float:
    """Median cosine distance of photographs whose hashes have nothing in common.

    Of those of the folder, by a sample of its pairs; where it has too few of them, of drawn pictures.

    Args:
        hashes: uint64 (n, 4), of photographs that have one.
        embeds: (n, dim), of length 1.
        engine: that the embeddings are of.
    """
    rng = np.random.default_rng(0)
    if len(hashes) > 1:
        pairs = rng.integers(0, len(hashes), (_SAMPLED_PAIRS, 2))
        pairs = np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1), axis=0)
        unlike = pairs[differing_bits(hashes[pairs[:, 0]], hashes[pairs[:, 1]]) > _UNLIKE]
        if len(unlike) >= _ENOUGH_PAIRS:
            return max(float(np.median(_distances(embeds, unlike))), 1e-6)
    drawn = unit(_drawn_embeds(engine))
    pairs = np.stack(np.triu_indices(len(drawn), 1), axis=1)
    return max(float(np.median(_distances(drawn, pairs))), 1e-6)


def unit(embeds: np.ndarray) -> np.ndarray:
    """Vectors (n, dim) of length 1."""
    return embeds / np.maximum(np.linalg.norm(embeds, axis=1, keepdims=True), 1e-12)


def candidate_pairs(hashes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs to look at, some of them more than once, in blocks.

    Of up to `EXACT_UP_TO` photographs these are all. Of n more they are at most n * NEIGHBOURS * (TABLES + 1).

    Args:
        hashes: uint64 (n, 4), in the order of the listing.

    Returns:
        rows of the first and of the second photograph of each pair, int64.
    """
    total = len(hashes)
    if total <= EXACT_UP_TO:
        for first in range(0, total, _BLOCK):
            one, other = np.meshgrid(np.arange(first, min(first + _BLOCK, total)), np.arange(total), indexing="ij")
            yield one[one < other], other[one < other]
        return
    for step in range(1, NEIGHBOURS + 1):
        yield np.arange(total - step), np.arange(step, total)
    rng = np.random.default_rng(0)
    bits = np.unpackbits(np.ascontiguousarray(hashes[:, :1]).view(np.uint8), axis=1)  # (n, 64): the lowest frequencies
    for _ in range(TABLES):
        shuffled = np.ascontiguousarray(bits[:, rng.permutation(bits.shape[1])])
        keys = np.packbits(shuffled, axis=1).view(">u8")[:, 0]
        order = np.argsort(keys, kind="stable")
        for step in range(1, NEIGHBOURS + 1):
            yield np.minimum(order[:-step], order[step:]), np.maximum(order[:-step], order[step:])


def _confirmed(hashes: np.ndarray, embeds: np.ndarray, usual: float) -> tuple[np.ndarray, np.ndarray]:
    """Near-duplicate pairs (k, 2), each once, and their share of the usual distance (k,)."""
    kept = [np.zeros((0, 2), dtype=np.int64)]
    for one, other in candidate_pairs(hashes):
        bits = differing_bits(hashes[one], hashes[other])
        close = other - one <= NEIGHBOURS
        possible = bits <= np.where(close, BURST, ANYWHERE)
        one, other, bits, close = one[possible], other[possible], bits[possible], close[possible]
        pairs = np.stack([one, other], axis=1)
        shares = _distances(embeds, pairs) / usual
        allowed = np.select(
            [bits <= COPY, bits <= ALIKE, close], [COPY_SHARE, ALIKE_SHARE, BURST_SHARE], ANYWHERE_SHARE
        )
        kept.append(pairs[shares <= allowed])
    pairs = np.unique(np.concatenate(kept), axis=0)
    return pairs, _distances(embeds, pairs) / usual


def _distances(embeds: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Cosine distances of pairs (k, 2) of vectors of length 1; in blocks, since a folder may have many pairs."""
    found = np.empty(len(pairs))
    for first in range(0, len(pairs), 16_384):
        block = pairs[first : first + 16_384]
        found[first : first + 16_384] = 1 - np.einsum("ij,ij->i", embeds[block[:, 0]], embeds[block[:, 1]])
    return found


def _drawn_embeds(engine: Engine) -> np.ndarray:
    from PIL import Image

    from ...data.synthetic import SyntheticPhotographs

    pictures = SyntheticPhotographs(0).generate(_SYNTHETIC).images.numpy()
    results: Sequence[dict] = [
        engine.score(engine.prepare(Image.fromarray(picture))[None], embeds=True)[0] for picture in pictures
    ]
    return np.stack([np.asarray(result["embeds"], dtype=np.float32) for result in results])
