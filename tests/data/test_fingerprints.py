from __future__ import annotations

import hashlib

import numpy as np
import pytest
from PIL import Image

from cskd_hf.data import fingerprints
from cskd_hf.data.fingerprints import (
    MAX_DISTANCE,
    concatenate,
    distance,
    earlier_copies,
    fingerprint,
    mirrored,
    name_of,
    nearest,
    perceptual_hash,
    take_fingerprints,
)
from cskd_hf.data.sources import FolderSource
from cskd_hf.data.synthetic import SyntheticPhotographs
from cskd_hf.models.image_loading_cskd import ImageLoadError
from image_copies import COPIES, flip, resize
from image_files import encode, gradient


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """Drawn photographs, enlarged so that they are as smooth as real ones."""
    return [resize(Image.fromarray(image.numpy()), 3) for image in SyntheticPhotographs(7).generate(60).images]


@pytest.fixture(scope="module")
def hashes(pictures) -> np.ndarray:
    return np.stack([perceptual_hash(picture) for picture in pictures])


def random_hashes(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, (n, 4), dtype=np.uint64)


def flip_bits(hashes: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Other hashes at exactly that distance; the changes are spread over all words."""
    rng, changed = np.random.default_rng(seed), hashes.copy()
    for row in changed:
        for bit in rng.permutation(np.arange(0, 256, 4))[:count]:
            row[bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
    return changed


@pytest.mark.parametrize("kind", COPIES)
def test_copies_are_near_and_other_pictures_far(pictures, hashes, kind):
    copies = np.stack([perceptual_hash(COPIES[kind](picture)) for picture in pictures])
    found, away = nearest(copies, hashes)
    assert found.tolist() == list(range(len(pictures)))
    assert np.array_equal(distance(copies, hashes), away)
    others = distance(hashes[:, None], hashes[None])
    assert others[~np.eye(len(hashes), dtype=bool)].min() > MAX_DISTANCE


def test_hash_of_a_mirrored_picture_follows_from_the_hash(pictures, hashes):
    for picture, hashed in zip(pictures[:10], hashes):
        assert fingerprints._popcount(perceptual_hash(flip(picture)) ^ mirrored(hashed)).sum() <= 2


def test_blank_and_smooth_pictures_have_no_hash():
    assert perceptual_hash(Image.new("RGB", (300, 200), (90, 120, 200))) is None
    assert perceptual_hash(Image.linear_gradient("L").convert("RGB")) is None
    assert perceptual_hash(Image.new("RGB", (1, 1))) is None


def test_table_and_builtin_count_the_same_bits():
    words = random_hashes(50)
    expected = [[int(word).bit_count() for word in row] for row in words]
    assert fingerprints._popcount_by_table(words).tolist() == expected
    assert fingerprints._popcount(words).tolist() == expected
    assert fingerprints._popcount_by_table(words[:, None, 0]).tolist() == [[row[0]] for row in expected]


def test_nearest_compares_all_blocks_and_keeps_the_limit(monkeypatch):
    monkeypatch.setattr(fingerprints, "_QUERIES", 7)
    monkeypatch.setattr(fingerprints, "_REFERENCES", 5)
    references = random_hashes(33)
    at = np.arange(32, -1, -1)
    for bits, hit in ((0, True), (MAX_DISTANCE, True), (MAX_DISTANCE + 1, False)):
        queries = flip_bits(references[at], bits)
        for asked in (queries, mirrored(queries)):
            found, away = nearest(asked, references, threads=3)
            assert found.tolist() == (at.tolist() if hit else [-1] * 33)
            assert set(away) == {bits if hit else MAX_DISTANCE + 1}
    assert nearest(references, references[:0])[0].tolist() == [-1] * 33
    assert len(nearest(references[:0], references)[0]) == 0


def test_the_nearer_of_two_references_wins():
    (original,) = random_hashes(1)
    far, near = flip_bits(original[None], 20), mirrored(flip_bits(original[None], 3))
    found, away = nearest(original[None], np.concatenate([far, near]))
    assert found.tolist() == [1] and away.tolist() == [3]


def test_earlier_copies_keep_the_first_across_and_within_blocks(monkeypatch):
    monkeypatch.setattr(fingerprints, "_QUERIES", 2)  # blocks of 8
    hashes = random_hashes(20)
    hashes[3] = mirrored(hashes[1])
    hashes[9], hashes[19] = flip_bits(hashes[1:2], 5)[0], flip_bits(hashes[3:4], 7)[0]
    hashes[18] = hashes[12]
    found, away = earlier_copies(hashes)
    assert {row: int(at) for row, at in enumerate(found) if at >= 0} == {3: 1, 9: 1, 19: 1, 18: 12}
    assert away[[3, 9, 19, 18]].tolist() == [0, 5, 7, 0]


def test_a_copy_of_a_copy_that_is_no_copy_of_the_first_stays():
    (first,) = random_hashes(1)
    second = flip_bits(first[None], MAX_DISTANCE)[0]
    third = second.copy()
    third[1] ^= np.uint64(0xAAAA)  # bits that `flip_bits` leaves alone
    assert distance(second, third) <= MAX_DISTANCE < distance(first, third)
    found, _ = earlier_copies(np.stack([first, second, third]))
    assert found.tolist() == [-1, 0, -1]


def test_fingerprints_of_all_kinds_of_sources(tmp_path):
    data = encode(gradient(64, 48), "PNG")
    (tmp_path / "a.png").write_bytes(data)
    digest = hashlib.sha256(data).digest()
    for source in (
        tmp_path / "a.png",
        data,
        {"bytes": data, "path": None},
        {"bytes": None, "path": str(tmp_path / "a.png")},
    ):
        assert fingerprint(source)[0] == digest
    assert fingerprint(gradient())[0] is None
    assert fingerprint(data, perceptual=False) == (digest, None)
    for broken in (data[:100], tmp_path / "none.png", tmp_path, {"bytes": None, "path": None}):
        assert isinstance(fingerprint(broken), ImageLoadError)


def test_unreadable_images_are_listed_and_do_not_stop_the_others(tmp_path, pictures, monkeypatch):
    monkeypatch.setattr(fingerprints, "_BATCH", 2)
    for number, picture in enumerate(pictures[:4]):
        picture.save(tmp_path / f"{number}.png")
    (tmp_path / "2a.png").write_bytes(b"no image")
    Image.new("RGB", (50, 50)).save(tmp_path / "blank.png")
    prints = take_fingerprints(FolderSource(tmp_path))
    assert prints.keys == ["0.png", "1.png", "2.png", "2a.png", "3.png", "blank.png"]
    assert prints.hashed.tolist() == [True, True, True, False, True, False] and prints.plain() == 1
    assert list(prints.unreadable) == [3] and "not an image" in prints.unreadable[3]
    both = concatenate([prints, prints])
    assert len(both) == 12 and list(both.unreadable) == [3, 9]
    part = both.take([9, 4])
    assert part.keys == ["2a.png", "3.png"] and list(part.unreadable) == [0] and part.hashed.tolist() == [False, True]
    assert np.array_equal(part.hashes[1], prints.hashes[4]) and part.digests[1] == prints.digests[4]


@pytest.mark.parametrize(
    ("key", "name"),
    [("a/B/IMG_1.JPG", "img_1"), ("953619", "953619"), ("x.y.png", "x.y"), ("row 17", None), ("folder/row 17", None)],
)
def test_names(key, name):
    assert name_of(key) == name
