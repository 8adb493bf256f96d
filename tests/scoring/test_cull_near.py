"""Near-duplicates of real pixels: what is grouped, what is not, and that it does not take n x n comparisons."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from cskd_hf.data.fingerprints import perceptual_hash
from cskd_hf.data.synthetic import SyntheticPhotographs
from cskd_hf.scoring.cull import near
from cskd_hf.scoring.cull.looking import THUMBNAIL, THUMBNAIL_BYTES, Photograph, thumbnail
from cskd_hf.scoring.cull.stars import check_cuts, folder_percentiles, give_stars
from cskd_hf.scoring.errors import ScoringError

COPIES: list[Callable[[Image.Image], Image.Image]] = [
    lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    lambda image: image.resize((image.width // 2, image.height // 2)),
    lambda image: image.crop((2, 2, image.width - 2, image.height - 2)),
]


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [Image.fromarray(pixels) for pixels in SyntheticPhotographs(1).generate(24).images.numpy()]


def facts(pictures: list[Image.Image]) -> tuple[np.ndarray, np.ndarray]:
    """Hashes, and in place of a model's embedding the colours of a grid."""
    hashes = np.stack([perceptual_hash(picture) for picture in pictures])
    small = [np.asarray(picture.resize((6, 6)), dtype=np.float32).ravel() - 128 for picture in pictures]
    return hashes, near.unit(np.stack(small))


def grouped(pictures: list[Image.Image], usual: float = 1.0) -> list[int]:
    hashes, embeds = facts(pictures)
    return near.near_groups(hashes, embeds, usual).tolist()


@pytest.mark.parametrize("exact", [near.EXACT_UP_TO, 1], ids=["all pairs", "sorted tables"])
def test_copies_are_a_group_and_others_are_not(
    pictures: list[Image.Image], exact: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(near, "EXACT_UP_TO", exact)
    shuffled = [*pictures, *(copy(pictures[3]) for copy in COPIES), COPIES[0](pictures[9])]
    assert grouped(pictures) == [0] * 24
    expected = [0] * 28
    expected[3] = expected[24] = expected[25] = expected[26] = 1
    expected[9] = expected[27] = 2
    assert grouped(shuffled) == expected


def test_the_embedding_must_confirm(pictures: list[Image.Image]):
    hashes, embeds = facts([pictures[0], COPIES[0](pictures[0])])
    assert near.near_groups(hashes, embeds, 1.0).tolist() == [1, 1]
    assert near.near_groups(hashes, np.eye(2, dtype=np.float32), 0.5).tolist() == [0, 0]


def test_shots_of_a_burst_may_differ_more_than_photographs_far_apart():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, (40, 4), dtype=np.uint64)
    embeds = near.unit(rng.normal(size=(40, 32)).astype(np.float32))
    for place, first in ((5, 0), (30, 100)):  # 100 bits: beyond ANYWHERE, within BURST
        bits = np.arange(256)
        flips = np.packbits((bits >= first) & (bits < first + 100)).view(np.uint64)
        hashes[place], embeds[place] = hashes[4] ^ flips, near.unit(embeds[4:5] + 0.01)[0]
    groups = near.near_groups(hashes, embeds, 1.0)
    assert groups[4] == groups[5] == 1 and (np.delete(groups, [4, 5]) == 0).all()


def test_a_long_series_of_small_steps_is_several_groups():
    angles = np.linspace(0, np.pi, 40)
    embeds = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    hashes = np.stack([np.packbits(np.arange(256) < 6 * step).view(np.uint64) for step in range(40)])
    groups = near.near_groups(hashes, embeds, 1.0)
    steps = near.near_groups(hashes[:3], embeds[:3], 1.0)
    assert steps.tolist() == [1, 1, 1]
    assert 2 <= groups.max() < 20 and np.bincount(groups).max() < 20


def test_the_comparisons_grow_with_the_number_of_photographs():
    total = 5000
    hashes = np.random.default_rng(0).integers(0, 2**63, (total, 4), dtype=np.uint64)
    pairs = sum(len(one) for one, _ in near.candidate_pairs(hashes))
    assert pairs <= total * near.NEIGHBOURS * (near.TABLES + 1) < total * (total - 1) / 2


def test_the_tables_find_what_differs_in_few_bits():
    rng = np.random.default_rng(1)
    hashes = rng.integers(0, 2**63, (4000, 4), dtype=np.uint64)
    for place in range(0, 1000):
        bits = np.zeros(256, dtype=bool)
        bits[rng.choice(256, 30, replace=False)] = True
        hashes[3999 - place] = hashes[place] ^ np.packbits(bits).view(np.uint64)
    found = set()
    for one, other in near.candidate_pairs(hashes):
        found.update(one[one + other == 3999].tolist())
    assert len(found) > 980


def test_the_usual_distance_is_that_of_unlike_photographs(pictures: list[Image.Image]):
    hashes, embeds = facts(pictures)
    copies = [copy(picture) for picture in pictures for copy in COPIES]
    more_hashes, more_embeds = facts([*pictures, *copies])
    alone = near.usual_distance(hashes, embeds, None)
    assert near.usual_distance(more_hashes, more_embeds, None) == pytest.approx(alone, rel=0.15)
    assert 0.2 < alone < 1.5


def test_percentiles_and_stars():
    assert folder_percentiles(np.array([3.0, 1.0, 2.0, 2.0])).tolist() == [87.5, 12.5, 50.0, 50.0]
    photographs = [Photograph(str(n), {"score": n / 10}) for n in range(100)] + [Photograph("x", {"error": "no"})]
    assert give_stars(photographs) == "folder"
    assert [sum(one.stars == n for one in photographs) for n in range(6)] == [1, 20, 30, 30, 15, 5]
    with pytest.raises(ScoringError, match="calibrate"):
        give_stars(photographs, source="model")
    for one in photographs[:-1]:
        one.result["percentile"] = 99.0
    assert give_stars(photographs) == "model" and {one.stars for one in photographs[:-1]} == {5}
    assert give_stars(photographs, source="folder") == "folder"


@pytest.mark.parametrize("cuts", [[1, 2, 3], [50, 20, 80, 95], [0, 20, 50, 80], [20, 50, 80, 100], [20, 20, 50, 80]])
def test_cuts_are_checked(cuts: list[float]):
    with pytest.raises(ScoringError, match="four rising percentiles"):
        check_cuts(cuts)


@pytest.mark.parametrize("size", [(900, 400), (1, 5000), (30, 20)])
def test_thumbnails_are_small(size: tuple[int, int]):
    noise = Image.effect_noise(size, 90).convert("RGB")
    data = thumbnail(noise)
    small = Image.open(io.BytesIO(data))
    assert max(small.size) == min(THUMBNAIL, max(size)) and min(small.size) >= 1
    assert len(data) < 2 * THUMBNAIL_BYTES
