from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from cskd_hf.data.fingerprints import MAX_DISTANCE, distance, similar_pairs, take_fingerprints
from cskd_hf.data.leak_guard import same_pictures
from cskd_hf.data.ratings import RatingsError, build_ratings
from cskd_hf.data.sources import FolderSource
from cskd_hf.finetuning.folds import deal_rows, joined_groups, make_plan, picture_groups


def picture(seed: int) -> Image.Image:
    """Detailed enough for a perceptual hash."""
    coarse = np.random.default_rng(seed).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((160, 120), Image.Resampling.BICUBIC)


@pytest.fixture
def rated(tmp_path):
    """20 pictures; the last four rows are copies of the first: smaller, mirrored, compressed, and with equal bytes."""
    names = []
    for number in range(16):
        names.append(f"{number:02d}.png")
        picture(number).save(tmp_path / names[-1])
    picture(0).resize((80, 60)).save(tmp_path / "small.png")
    picture(0).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "mirrored.png")
    picture(0).save(tmp_path / "compressed.jpg", quality=60)
    (tmp_path / "same.png").write_bytes((tmp_path / "00.png").read_bytes())
    names += ["small.png", "mirrored.png", "compressed.jpg", "same.png"]
    # The copies contradict the picture that they are copies of.
    means = [1.0, *np.linspace(1.5, 4.5, 15), 5.0, 4.9, 4.8, 5.0]
    return build_ratings({"image": names, "mean": means}, [1, 2, 3, 4, 5], name="t", image_dir=tmp_path)


def test_copies_are_one_group(rated):
    groups = picture_groups(rated)
    assert len(set(groups)) == 16
    assert set(groups[16:]) == {groups[0]}


@pytest.mark.parametrize("seed", range(5))
def test_a_copy_with_another_rating_is_never_on_the_other_side(rated, seed):
    groups = picture_groups(rated)
    for folds, kind in ((4, "cross-validation"), (1, "hold-out")):
        plan = make_plan(rated, groups, folds=folds, holdout=0.25, seed=seed)
        assert plan.kind == kind
        for fold in plan.folds:
            assert not set(groups[fold.train]) & set(groups[fold.held_out])
            assert len(fold.train) + len(fold.held_out) == 20
    assert len(plan.final) == 20


def test_every_row_is_held_out_once(rated):
    plan = make_plan(rated, picture_groups(rated), folds=5, holdout=0.2, seed=0)
    assert len(plan.folds) == 5
    assert sorted(np.concatenate([fold.held_out for fold in plan.folds])) == list(range(20))


def test_a_test_split_is_kept_as_it_is_and_its_copies_leave_the_training_rows(rated):
    splits = ["test"] * 5 + ["train"] * 15
    rated = rated.remove_columns("split").add_column("split", splits)
    plan = make_plan(rated, picture_groups(rated), folds=5, holdout=0.2, seed=0)
    assert plan.kind == "test split"
    assert plan.held_out.tolist() == [0, 1, 2, 3, 4]
    assert plan.left_out.tolist() == [16, 17, 18, 19]  # copies of picture 0
    assert plan.final.tolist() == plan.folds[0].train.tolist() == list(range(5, 16))


def test_many_ratings_get_a_single_hold_out(rated, monkeypatch):
    monkeypatch.setattr("cskd_hf.finetuning.folds.MAX_CROSS_VALIDATED", 19)
    plan = make_plan(rated, picture_groups(rated), folds=5, holdout=0.2, seed=0)
    assert plan.kind == "hold-out" and len(plan.folds) == 1
    assert 3 <= len(plan.held_out) <= 6


@pytest.mark.parametrize("seed", range(3))
def test_parts_are_of_like_size_and_like_ratings(seed):
    rng = np.random.default_rng(seed)
    means, groups = rng.normal(size=203), np.arange(203)
    groups[:30] = 0
    parts = deal_rows(means, groups, 5, seed)
    assert len(set(parts[:30])) == 1
    sizes = np.bincount(parts)
    assert sizes.max() - sizes.min() <= 30  # the big group fills one
    alone = deal_rows(means, np.arange(203), 5, seed)
    assert np.ptp(np.bincount(alone)) <= 1
    assert np.ptp([means[alone == part].mean() for part in range(5)]) < 0.25
    assert (deal_rows(means, groups, 5, seed) == parts).all()


def test_more_parts_than_pictures():
    assert sorted(deal_rows(np.arange(3.0), np.array([0, 1, 1]), 10, 0)) in ([0, 1, 1], [0, 0, 1])


def test_similar_pairs_are_all_pairs():
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**63, (300, 4), dtype=np.uint64)
    hashes[200] = hashes[3] ^ np.uint64(0b1011)
    hashes[299] = hashes[200] ^ np.uint64(1 << 40)
    expected = [
        (later, earlier)
        for later in range(300)
        for earlier in range(later)
        if distance(hashes[later], hashes[earlier]) <= MAX_DISTANCE
    ]
    assert {(200, 3), (299, 3), (299, 200)} <= set(expected)
    assert sorted(map(tuple, similar_pairs(hashes).tolist())) == sorted(expected)


def test_groups_reach_over_a_third_picture(tmp_path):
    """Of three brightness patterns in a row the ends need not resemble each other."""
    for name in "abc":
        picture(ord(name)).save(tmp_path / f"{name}.png")
    prints = take_fingerprints(FolderSource(tmp_path))
    flips = np.zeros((2, 4), dtype=np.uint64)
    flips[0, 1], flips[1, 2] = (1 << 40) - 1, (1 << 40) - 1  # 40 bits each, 80 together
    prints.hashes[1] = prints.hashes[0] ^ flips[0]
    prints.hashes[2] = prints.hashes[1] ^ flips[1]
    assert distance(prints.hashes[0], prints.hashes[2]) > MAX_DISTANCE
    assert len(set(same_pictures(prints))) == 1


def test_groups_of_a_column_join_those_of_pictures(rated):
    series = ["a", "b", None, ""] + [f"s{row}" for row in range(4, 16)] + ["b", "s5", "z", "y"]
    rated = rated.add_column("series", series)
    groups = joined_groups(picture_groups(rated), rated, "series")
    # Rows 16 to 19 are copies of row 0, and by their series belong to rows 1 and 5.
    assert {row for row in range(20) if groups[row] == groups[0]} == {0, 1, 5, 16, 17, 18, 19}
    assert len(set(groups)) == 14  # rows without a series are alone
    with pytest.raises(RatingsError, match="no column 'serie'.*did you mean 'series'"):
        joined_groups(np.arange(20), rated, "serie")
